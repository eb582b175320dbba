# Everything a newcomer, an operator and CI do with this project. `make help` lists the targets.

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
# the client package of KServe, in an environment of its own: it wants an older protobuf than onnx does
KSERVE := .venv-kserve
KSERVE_READY := $(KSERVE)/.ready
# the extra "client" alone, with the oldest packages that pyproject.toml allows
LOWEST := .venv-lowest
LOWEST_READY := $(LOWEST)/.ready

# What is packed and exported: the embedded model, unless MODEL, ARCH, WEIGHTS or CHECKPOINT say otherwise.
NAME   ?= $(or $(lastword $(subst :, ,$(subst /, ,$(or $(MODEL),$(ARCH),$(basename $(ONNX)))))),shufflenet_cam)
MODEL  ?=
ARCH   ?=
ONNX   ?=
PACK   ?=
GRAPHS ?=
LAYERS ?=
WEIGHTS ?=
STATE ?=
LABELS ?=
PREPROCESS ?=
TRANSFORM_INPUT ?=
INPUT ?=
CHANNELS ?=
HEAD ?=
OUTPUT ?=
QUANTIZE ?=
HALF ?=
CALIBRATE ?=
AGREEMENT ?=
# of graphs: PORTABLE=1 is for devices, FIXED_BATCH=1 fixes the number of pictures, OPSET=17 is for other runtimes
PORTABLE ?=
FIXED_BATCH ?=
OPSET ?=
CHECKPOINT ?= $(if $(MODEL)$(ARCH)$(WEIGHTS)$(ONNX),,examples/shapes/shapes.safetensors)
SOURCE := $(if $(MODEL),--model '$(MODEL)') $(if $(ARCH),--arch '$(ARCH)') $(if $(WEIGHTS),--weights '$(WEIGHTS)') \
          $(if $(ONNX),--onnx '$(ONNX)') $(if $(CHECKPOINT),--checkpoint '$(CHECKPOINT)') $(if $(LABELS),--labels '$(LABELS)') $(if $(STATE),--state '$(STATE)') \
          $(if $(strip $(PREPROCESS)),--preprocess '$(PREPROCESS)') \
          $(if $(strip $(TRANSFORM_INPUT)),--transform-input '$(TRANSFORM_INPUT)') \
          $(if $(strip $(INPUT)),--input '$(INPUT)') $(if $(strip $(CHANNELS)),--channels '$(CHANNELS)') \
          $(if $(strip $(HEAD)),--head '$(HEAD)') $(if $(strip $(OUTPUT)),--output '$(OUTPUT)')
# 1 lets a graph take uint8 pictures of any size, NAME.pictures.onnx
PICTURES ?=
NUMBERS := $(if $(QUANTIZE),--quantize '$(QUANTIZE)') $(if $(filter-out 0,$(HALF)),--half) \
           $(if $(CALIBRATE),--calibrate '$(CALIBRATE)') $(if $(AGREEMENT),--agreement '$(AGREEMENT)')
FORM := $(if $(filter-out 0,$(PICTURES)),--pictures) $(if $(filter-out 0,$(PORTABLE)),--portable) $(if $(FIXED_BATCH),--batch '$(FIXED_BATCH)') $(if $(OPSET),--opset '$(OPSET)')
# 0 packs no ONNX graphs into the archive
SIDECAR ?= 1
# a private Ed25519 key in PEM, which signs the archive: writes model_store/NAME.mar.sig
SIGN   ?=
CONFIG ?= config.properties
# what demo-photo writes
STRIP ?= out/demo-photo/strip.png

# What is fine-tuned and how; FINETUNE takes further options, see `python -m examples.finetune --help`
DATA   ?=
EPOCHS ?=
BATCH  ?=
SEED   ?=
OUT    ?= out/finetune
FINETUNE ?=

# tests that start no server share the cores, a file on one of them; those that do are timed by what they wait for
TOGETHER := -n 2 --dist loadfile -m "not server"
SERVERS := -m server

# load, soak, faults and fuzz: the embedded model, packed first into a store of its own
REQUESTS ?= 10000
CONCURRENCY ?= 32
MINUTES ?= 60
FAULTS ?=
# images: light or torchserve, both without one, and options of `python -m deploy.images`
IMAGES ?=
# what is measured: torchserve, or light, which is `shufflenet-cam serve`
FRONT ?= torchserve
RELIABILITY = $(PY) -m benchmarks.reliability --front '$(FRONT)'
# the light front has the plain gradient of a network with ReLUs from a graph that is packed on request
PACK_EMBEDDED = $(PY) -m export archive --checkpoint examples/shapes/shapes.safetensors --store out/reliability/store $(if $(filter light,$(FRONT)),--graphs saliency)

.DEFAULT_GOAL := help
.PHONY: help setup check docs test test-fast coverage mutants lowest demo demo-photo archive export explanation gradcam attention serve serve-light stop finetune train bench zoo evaluate soundness old-runtimes fuzz load soak soak-10 faults images lock clean

help: ## list the targets
	@echo "make TARGET [VARIABLE=value …]"
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/' | expand -t 16
	@echo
	@echo "archive takes SIGN=key.pem, too;"
	@echo "archive, export, explanation, gradcam and attention take MODEL=resnet18 WEIGHTS=DEFAULT, or CHECKPOINT=file LABELS=file, and NAME=name;"
	@echo "MODEL=timm/NAME and MODEL=hf/FOLDER-OR-ID are networks of timm and Hugging Face;"
	@echo "or ARCH=package.module:factory for a network of your own, with PACK=package for what else its code imports;"
	@echo "or ONNX=model.onnx LABELS=file PREPROCESS='mean=… std=…' for a classifier of which no code exists;"
	@echo "PREPROCESS='resize=256 crop=224 mean=0.5,0.5,0.5 std=0.5,0.5,0.5 interpolation=bicubic crop_first=true', or a part of it, goes"
	@echo "over what the weights say of their pictures; TRANSFORM_INPUT=0 is for a GoogLeNet or Inception that was trained without its own;"
	@echo "INPUT=384x192 (height x width) and CHANNELS=4 are for networks whose pictures are no squares, or not RGB;"
	@echo "HEAD=sigmoid is for classes that do not exclude each other, HEAD=binary for one score, OUTPUT=name for one of several outputs;"
	@echo "PICTURES=1 puts resizing, cropping and normalising into a graph: it takes uint8 pictures (height, width, channels) of any size;"
	@echo "export and gradcam take QUANTIZE=int8, they and explanation HALF=1, all CALIBRATE=folder AGREEMENT=0.9, see docs/DEVICES.md;"
	@echo "export, explanation and gradcam take PORTABLE=1 for devices, FIXED_BATCH=1 and OPSET=17, see docs/DEVICES.md;"
	@echo "by default they take the embedded model. NAME is MODEL or the factory if given, else shufflenet_cam; serve takes"
	@echo "NAME, MODEL and ARCH, too. finetune takes DATA=folder, MODEL, WEIGHTS or CHECKPOINT to start from, EPOCHS, BATCH,"
	@echo "SEED, OUT, and FINETUNE='--freeze …'. load, soak, faults and fuzz take FRONT=light, bench takes BENCH='--fronts'."

setup: $(READY) ## build the environment in .venv (about 8 GB, a few minutes)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
	    || { echo "error: Python 3.11 or newer is needed; name one with PYTHON=python3.11"; exit 1; }
	@echo "building the environment in $(VENV): about 8 GB, a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# without their dependencies: they want the GUI build of cv2, which would replace the headless one
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps grad-cam==1.5.7 quantus==0.6.0
	@touch $@

$(KSERVE_READY): deploy/kserve/constraints.txt
	@echo "building the environment of the KServe client in $(KSERVE): about 450 MB, half a minute"
	$(PYTHON) -m venv $(KSERVE)
	$(KSERVE)/bin/python -m pip install --quiet --disable-pip-version-check -c deploy/kserve/constraints.txt kserve
	@touch $@

$(LOWEST_READY): pyproject.toml | $(READY)
	@echo "building the environment of the oldest packages in $(LOWEST): about 350 MB, half a minute"
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check $$($(PY) -m tests.support.lowest) 'pytest>=9' 'pytest-timeout>=2.4'
	@touch $@

check: $(READY) docs ## ruff, mypy and the documentation
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(READY) ## build the documentation as a site in out/site/, docstrings included; a broken link or anchor fails
	@# not --quiet, which would hide the warnings that --strict counts
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

test: $(READY) $(KSERVE_READY) $(LOWEST_READY) ## all tests, the real server among them
	$(PY) -m pytest $(TOGETHER)
	$(PY) -m pytest $(SERVERS)

test-fast: $(READY) ## the tests that start no server and export no graph, on all cores
	$(PY) -m pytest -n auto -m "not server and not slow"

coverage: $(READY) $(KSERVE_READY) $(LOWEST_READY) ## all tests, and which lines and branches of handler and export they reach
	$(VENV)/bin/coverage erase
	$(PY) -m pytest $(TOGETHER) --cov --cov-report=
	$(PY) -m pytest $(SERVERS) --cov --cov-append --cov-report=
	$(VENV)/bin/coverage report

mutants: $(READY) ## put thousands of small faults into the rooms that need no network, one at a time, and list those that no test notices (an hour)
	$(VENV)/bin/mutmut run
	$(VENV)/bin/mutmut results

lowest: $(LOWEST_READY) ## install the wheel beside the oldest packages that pyproject.toml allows, and test it there
	$(PY) -m pytest tests/export/test_wheel.py

demo: $(READY) ## pack and serve the embedded model, post two pictures, show what comes back, stop
	$(PY) -m export archive --checkpoint examples/shapes/shapes.safetensors --store out/demo/store
	$(PY) -m examples.demo

demo-photo: $(READY) ## serve real ImageNet weights, explain two photographs, draw them side by side, stop (STRIP=docs/photo.png: the picture in README)
	$(PY) -m export archive --name efficientnet_lite0 --arch examples.efficientnet_lite0.network:efficientnet_lite0 --store out/demo-photo/store
	$(PY) -m examples.efficientnet_lite0.demo --strip '$(STRIP)'

archive: $(READY) ## write model_store/NAME.mar for TorchServe, ONNX graphs included (SIDECAR=0 leaves them out, GRAPHS="behind attention saliency" adds these, LAYERS="stage3 stage4" lets the graphs answer for these layers)
	@test -z '$(strip $(NUMBERS)$(FORM))' || { echo "error: archive takes neither QUANTIZE and HALF nor PORTABLE, FIXED_BATCH, OPSET and PICTURES: these are of graphs outside of archives"; exit 2; }
	$(PY) -m export archive --name '$(NAME)' $(SOURCE) $(if $(filter 0,$(SIDECAR)),--no-sidecar)$(foreach kind,$(GRAPHS), --graphs '$(kind)')$(foreach layer,$(LAYERS), --layers '$(layer)')$(foreach package,$(PACK), --pack '$(package)')
	$(if $(SIGN),openssl pkeyutl -sign -rawin -inkey '$(SIGN)' -in 'model_store/$(NAME).mar' -out 'model_store/$(NAME).mar.sig')

export: $(READY) ## write model_store/NAME.onnx for ONNX Runtime, verified against PyTorch
	$(PY) -m export prediction --name '$(NAME)' $(SOURCE) $(FORM) $(NUMBERS)

explanation: $(READY) ## write model_store/NAME.explain.onnx: scores, Grad-CAM and guided backprop in one ONNX graph
	$(PY) -m export explanation --name '$(NAME)' $(SOURCE) $(FORM) $(NUMBERS)

gradcam: $(READY) ## write model_store/NAME.gradcam.onnx: scores and Grad-CAM, hardly slower than scores alone
	$(PY) -m export gradcam --name '$(NAME)' $(SOURCE) $(FORM) $(NUMBERS)

attention: $(READY) ## write model_store/NAME.attention.onnx: scores and the maps of a vision transformer's attention
	@test -z '$(strip $(NUMBERS)$(filter-out --pictures,$(FORM)))' || { echo "error: attention takes neither QUANTIZE and HALF nor PORTABLE, FIXED_BATCH and OPSET"; exit 2; }
	$(PY) -m export attention --name '$(NAME)' $(SOURCE) $(if $(filter-out 0,$(PICTURES)),--pictures)

serve: $(READY) ## start TorchServe with model_store/NAME.mar and wait until it answers
	$(PY) -m deploy.local_server start --config '$(CONFIG)' --model '$(NAME)'

serve-light: $(READY) ## serve model_store/NAME.mar without torch and Java, until Ctrl-C
	$(PY) -m export serve 'model_store/$(NAME).mar'

stop: $(READY) ## stop the server that `make serve` started
	$(PY) -m deploy.local_server stop --config '$(CONFIG)'

finetune: $(READY) ## fine-tune a classifier on the pictures in DATA=folder (train/ and val/): writes and resumes out/finetune/
	@test -n '$(DATA)' || { echo "error: name a folder with train/ and val/, a folder per class in both: DATA=folder"; exit 2; }
	@test -z '$(ARCH)' || { echo "error: finetune trains networks of libraries (MODEL=), not ARCH=$(ARCH)"; exit 2; }
	$(PY) -m examples.finetune '$(DATA)' $(if $(MODEL),--model '$(MODEL)') $(if $(WEIGHTS),--weights '$(WEIGHTS)') \
	    $(if $(CHECKPOINT),--checkpoint '$(CHECKPOINT)') $(if $(EPOCHS),--epochs '$(EPOCHS)') \
	    $(if $(BATCH),--batch-size '$(BATCH)') $(if $(SEED),--seed '$(SEED)') --out '$(OUT)' $(FINETUNE)

train: $(READY) ## train the embedded model anew (about 40 minutes on two cores)
	$(PY) -m examples.shapes.train

bench: $(READY) ## measure this project side by side with its peers, see benchmarks/RESULTS.md (an hour or two)
	$(PY) -m benchmarks $(BENCH)

zoo: $(READY) ## run every classifier of torchvision, timm's families and Hugging Face through everything, see docs/ZOO.md (hours; resumable)
	$(PY) -m tests.zoo --docs docs $(ZOO)

evaluate: $(READY) ## judge every map method on drawn scenes and photographs, see docs/QUALITY.md (about 20 minutes on two cores)
	$(PY) -m benchmarks.evaluation --docs docs

old-runtimes: $(READY) ## run graphs of every kind with ONNX Runtime 1.15, 1.17 and 1.20 from a package index (a few minutes)
	$(PY) -m tests.support.old_runtimes

soundness: $(READY) ## hold 492 networks to an independent reference, see docs/SOUNDNESS.md (an hour; resumable; SOUNDNESS='--only NAME')
	$(PY) -W ignore -m tests.soundness --docs docs $(SOUNDNESS)

fuzz: $(READY) ## send 100,000 hostile requests to a server (a quarter of an hour; FUZZ='--inputs 5000 --seed 1')
	$(PACK_EMBEDDED)
	$(RELIABILITY) fuzz $(FUZZ)

load: $(READY) ## 10,000 mixed requests at concurrency 32, bursts and sizing, see docs/RELIABILITY.md (about 15 minutes)
	$(PACK_EMBEDDED)
	$(RELIABILITY) load --requests '$(REQUESTS)' --concurrency '$(CONCURRENCY)'

soak: $(READY) ## an hour of low load (MINUTES=60): fails if an answer is wrong or the workers' memory grows
	$(PACK_EMBEDDED)
	$(RELIABILITY) soak --minutes '$(MINUTES)'

soak-10: $(READY) ## the same for 10 minutes
	$(PACK_EMBEDDED)
	$(RELIABILITY) soak --minutes 10

faults: $(READY) ## what clients see when processes, disks, archives and other clients fail (5 to 10 minutes; FAULTS="name …")
	$(PACK_EMBEDDED)
	$(RELIABILITY) faults $(if $(FAULTS),--only $(FAULTS))

images: $(READY) ## build both images with buildah, as root, run them, print sizes and answers (minutes; 7 GB; IMAGES="light --build '…'")
	$(PY) -m deploy.images $(IMAGES)

lock: $(READY) ## write the exact versions of the present environment to constraints.txt
	$(PY) -m pip freeze --exclude-editable --exclude grad-cam --exclude quantus | grep -v '^-e' > constraints.txt

clean: ## remove what the targets above wrote, but not the environments
	rm -rf build dist out logs *.egg-info .mypy_cache .ruff_cache .pytest_cache model_store/*.mar* model_store/*.onnx*
