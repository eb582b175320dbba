"""``RESULTS.md``, made from ``results.json`` and, where there is one, ``notes.md``: nothing in it is typed by hand."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import EAGER, OURS_ONNX
from benchmarks.ratios import ratio
from benchmarks.results import KEY_SETTING, Results, read_results
from benchmarks.work import EXPLAIN, GRADCAM, KEY_NETWORK, PREDICT, TASKS

TASK_NAMES = {PREDICT: "prediction", GRADCAM: "Grad-CAM", EXPLAIN: "prediction, Grad-CAM and guided backprop"}
_TIMED = f"""\
## What is timed

One call: from a NumPy batch (N, 3, 224, 224), float32, to NumPy arrays; models, hooks and sessions are built before.
Each call gets other pictures than the one before. All contenders have the same random weights (made once, with batch
norms that fit, so that activations neither vanish nor explode) and 1000 classes, and explain the class with the highest
score at the same layer. Each contender and task has a process of its own that blocks on a pipe while others run. In a
round each of them has a turn: two calls to warm up, then the timed ones (one of more than a second is not warmed up).
The order changes with every round; slow settings have fewer rounds. A turn's figure is the median of its calls; the
tables show the median of the turns and their quartiles; a ratio is that of two turns of the same round, and then the
median over the rounds.

* **{EAGER}**: torchvision's module in inference mode.
* **pytorch-grad-cam**: one `GradCAM`, built once, whose `outputs` are the prediction (its maps are upsampled, as it
  always makes them), and one `GuidedBackpropReLUModel`, which takes one picture at a time.
* **captum**: a forward pass for prediction and target, `LayerGradCam.attribute`, `GuidedBackprop.attribute`.
* **torchcam**: the extractor `GradCAM` on one forward pass; it has no guided backprop.
* **ours torch**: `TorchEngine`. **ours onnx**: `OnnxEngine` with all graphs of an archive open, without torch.

The peers' parameters require gradients, as those of a torchvision model do. Peak memory is the kernel's `VmHWM` of the
process up to and with this batch size. Loading is from the start of the interpreter until the first call is possible;
the files are in the disk cache.
"""


def write_report(results: Path) -> None:
    """Writes ``RESULTS.md`` beside ``results.json``."""
    notes = results.with_name("notes.md")
    text = render(read_results(results), notes.read_text(encoding="utf-8") if notes.is_file() else "")
    results.with_name("RESULTS.md").write_text(text, encoding="utf-8")


def render(results: Results, notes: str = "") -> str:
    """The page as Markdown."""
    parts = [
        "# Results\n\n`make bench` writes this page, `results.json` and the plot.\n",
        _machine(results),
        _targets(results),
        notes,
        "![Time of an explanation, and requests per second](results.png)\n",
        _key_table(results),
        _all_table(results),
        _served(results),
        _agreement(results),
        _TIMED,
    ]
    return "\n".join(part.strip() + "\n" for part in parts if part.strip())


def _machine(results: Results) -> str:
    setting = results.get("settings", {}).get(KEY_SETTING) or results.get("served")
    if not setting:
        return ""
    machine = setting["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"Measured on {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}, {machine['date']}; {packages}.\n"
    )


def _targets(results: Results) -> str:
    rows = []
    for key, one in results.get("targets", {}).items():
        wanted = f"{'≥' if one['at_least'] else '≤'} {one['threshold']}"
        if one["value"] is None:
            rows.append([f"`{key}`", "not measured", "", wanted, ""])
            continue
        verdict = "reached" if one["reached"] else f"**missed by {one['missed_by']:.1%}**"
        rows.append([f"`{key}`", f"{one['value']:.2f}", _range(one["quartiles"], 2), wanted, verdict])
    heading = f"## Ratios\n\n{KEY_NETWORK}, batch 1, 2 threads; measured side by side.\n\n"
    return heading + _table(["ratio", "median", "quartiles", "wanted", ""], rows)


def _key_table(results: Results) -> str:
    setting = results.get("settings", {}).get(KEY_SETTING)
    if not setting:
        return ""
    ours = {one["task"]: one for one in setting["contenders"] if one["contender"] == OURS_ONNX}
    rows = []
    for one in setting["contenders"]:
        relative = ratio(one["rounds_ms"], ours[one["task"]]["rounds_ms"])
        rows.append(
            [
                TASK_NAMES[one["task"]],
                one["contender"],
                f"{one['median_ms']:.1f}",
                _range(one["quartiles_ms"], 1),
                f"{relative.median:.2f}",
                f"{one['peak_mb']:.0f}",
                f"{one['load_s']:.1f}",
            ]
        )
    heads = ["task", "contender", "ms", "quartiles", f"times {OURS_ONNX}", "peak MB", "loads in s"]
    return f"## {KEY_NETWORK}, batch 1, 2 threads\n\n" + _table(heads, rows)


def _all_table(results: Results) -> str:
    settings = results.get("settings", {})
    if not settings:
        return ""
    columns = sorted({(one["threads"], one["batch"]) for one in settings.values()})
    cells: dict[tuple[str, str, str], dict[tuple[int, int], Mapping[str, Any]]] = {}
    for setting in settings.values():
        for one in setting["contenders"]:
            row = cells.setdefault((setting["network"], one["task"], one["contender"]), {})
            row[setting["threads"], setting["batch"]] = one
    text = "## All networks\n\nMilliseconds of a call.\n"
    for left_out, reason in results.get("left_out", {}).items():
        text += f"\n{left_out} is left out: {reason}\n"
    for task in TASKS:
        rows = [
            [network, name, *(f"{row[column]['median_ms']:.1f}" if column in row else "" for column in columns)]
            for (network, its, name), row in cells.items()
            if its == task
        ]
        heads = ["network", "contender", *(f"{threads} thr., batch {batch}" for threads, batch in columns)]
        text += f"\n### {TASK_NAMES[task][0].upper()}{TASK_NAMES[task][1:]}\n\n" + _table(heads, rows)
    rows = [
        [
            network,
            TASK_NAMES[task],
            name,
            *(f"{row[column]['peak_mb']:.0f}" if column in row else "" for column in columns),
        ]
        for (network, task, name), row in cells.items()
    ]
    heads = ["network", "task", "contender", *(f"{threads} thr., batch {batch}" for threads, batch in columns)]
    return text + "\n### Peak memory in MB\n\n" + _table(heads, rows)


def _served(results: Results) -> str:
    served = results.get("served")
    if not served:
        return ""
    rows = [
        [
            TASK_NAMES[one["task"]],
            one["contender"],
            str(one["concurrency"]),
            f"{one['per_s']:.1f}",
            *(f"{one[f'p{percent}_ms']:.0f}" for percent in (50, 95, 99)),
            f"{one['requests']}",
        ]
        for one in served["measured"]
    ]
    heads = ["task", "handler", "concurrency", "requests/s", "p50 ms", "p95 ms", "p99 ms", "requests"]
    return f"## Served\n\n{served['what']}\n\n" + _table(heads, rows)


def _agreement(results: Results) -> str:
    others = []
    for setting in results.get("settings", {}).values():
        for one in setting["contenders"]:
            found = ", ".join(f"{name} {value:.1g}" for name, value in one["differences"].items())
            line = f"* {setting['network']}, {one['contender']}, {TASK_NAMES[one['task']]}: {found}"
            if not one["agrees"] and line not in others:
                others.append(line)
    text = (
        "## Same work\n\n"
        "Before a network is measured, all contenders' outputs on the same pictures are compared with ours (torch): "
        "scores and\nGrad-CAM within 1e-3 of the largest value, guided backprop within 1e-3 for 90 % of the pixels "
        "and 5 % for the others.\n"
    )
    if "settings" not in results:
        return ""
    if not others:
        return text + "All agreed.\n"
    text += (
        "Those that differ (shares of the largest value); ReLU6 is not guided by pytorch-grad-cam and captum, which\n"
    )
    text += "the plain gradient there, for as much work:\n\n"
    return text + "\n".join(others) + "\n"


def _range(values: Sequence[float], digits: int) -> str:
    return "–".join(f"{value:.{digits}f}" for value in values)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
