"""What authors do in code: grad modes, checkpointing, compiled parts, kept tensors, other precisions, state."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.soundness.odd.table import CLASSES, Convolutional, cnn, odd

EITHER = "right or refused"


@cnn(EITHER)
def trunk_without_gradients(net, x):
    with torch.no_grad():
        maps = net.trunk(x)
    return net.head(maps)


@cnn(EITHER, parts={"last": lambda: nn.Conv2d(32, 32, 3, 1, 1)})
def stem_without_gradients(net, x):
    with torch.no_grad():
        maps = net.trunk(x)
    return net.head(F.relu(net.last(maps)))


@cnn(EITHER)
def trunk_in_inference_mode(net, x):
    with torch.inference_mode():
        maps = net.trunk(x)
    return net.head(maps.clone())


@cnn(EITHER)
def all_in_inference_mode(net, x):
    with torch.inference_mode():
        return net.head(net.trunk(x))


@cnn(EITHER)
def trunk_detached(net, x):
    return net.head(net.trunk(x).detach())


@cnn(EITHER)
def input_detached(net, x):
    return net.head(net.trunk(x.detach()))


@cnn(EITHER)
def through_numpy(net, x):
    return net.head(net.trunk(torch.from_numpy(x.detach().numpy() * 2)))


@cnn("right")
def checkpointed(net, x):
    return net.head(checkpoint(net.trunk, x, use_reentrant=False))


@cnn(EITHER)
def checkpointed_reentrant(net, x):
    return net.head(checkpoint(net.trunk, x, use_reentrant=True))


@cnn("right", parts={"last": lambda: nn.Conv2d(32, 32, 1)}, layers=("last",))
def checkpointed_before_the_last(net, x):
    return net.head(F.relu(net.last(checkpoint(net.trunk, x, use_reentrant=False))))


@cnn(EITHER, parts={"last": lambda: torch.jit.script(nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU()))})
def scripted_part(net, x):
    return net.head(net.last(net.trunk(x)))


class Whole(Convolutional):
    def __init__(self):
        super().__init__(lambda net, x: net.head(net.trunk(x)), {})


@odd(EITHER)
def traced_network():
    return torch.jit.trace(Whole().eval(), torch.zeros(2, 3, 64, 64))


class Scriptable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


@odd(EITHER)
def scripted_network():
    return torch.jit.script(Scriptable())


@odd(EITHER)
def compiled_network():
    return torch.compile(Scriptable(), backend="eager")


@cnn(EITHER, parts={"lazy": lambda: nn.LazyConv2d(32, 3, 1, 1), "lazy_norm": nn.LazyBatchNorm2d})
def lazy_parts(net, x):
    return net.head(F.relu(net.lazy_norm(net.lazy(net.trunk(x)))))


@cnn("right")
def keeps_its_maps(net, x):
    net.last_maps = net.trunk(x)
    return net.head(net.last_maps)


@cnn("right")
def keeps_gradients_of_its_maps(net, x):
    net.kept = net.trunk(x)
    if net.kept.requires_grad:
        net.kept.retain_grad()
    return net.head(net.kept)


@torch.jit.script
def scripted_activation(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


@cnn(EITHER, parts={"act": lambda: scripted_activation})
def keeps_a_script_function(net, x):
    return net.head(net.act(net.c3(net.stem(x))))


@cnn(EITHER, parts={"table": lambda: nn.Buffer(torch.rand(1, 1, 16, 16, dtype=torch.float64))})
def float64_buffer(net, x):
    return net.head((net.trunk(x) * net.table).to(x.dtype))


@cnn(EITHER)
def float64_constant(net, x):
    return net.head(net.trunk(x) * torch.tensor(1.5, dtype=torch.float64))


@cnn("right", excused=("differences",))  # it rounds what differences are made of
def float32_inside(net, x):
    return net.head(net.trunk(x).float())


@cnn(EITHER)
def float64_inside(net, x):
    weight = net.c3.weight.double()
    return net.head(F.relu(F.conv2d(net.stem(x).double(), weight, padding=1)).to(x.dtype))


# bfloat16 has no central differences to speak of
@cnn(EITHER, excused=("differences",))
def autocast_inside(net, x):
    with torch.autocast("cpu", torch.bfloat16):
        maps = net.trunk(x)
    return net.head(maps.float())


@cnn(EITHER, parts={"low": lambda: nn.Conv2d(32, 32, 3, 1, 1).to(torch.bfloat16)})
def layer_in_half_precision(net, x):
    return net.head(F.relu(net.low(net.trunk(x).to(net.low.weight.dtype))).to(x.dtype))


@cnn("right", parts={"seen": lambda: nn.Buffer(torch.zeros(()))})
def counts_its_pictures(net, x):
    net.seen += len(x)
    return net.head(net.trunk(x))


@cnn(EITHER, parts={"average": lambda: nn.Buffer(torch.zeros(32))})
def moves_its_average(net, x):
    maps = net.trunk(x)
    net.average.mul_(0.5).add_(0.5 * maps.detach().mean((0, 2, 3)))
    return net.head(maps - net.average[:, None, None])


@cnn("refused", word="differently")
def drops_out_always(net, x):
    return net.head(F.dropout(net.trunk(x)))


@cnn("refused", word="differently")
def adds_noise(net, x):
    return net.head(net.trunk(x + 0.5 * torch.randn_like(x)))


class Named(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        setattr(self, name, Whole())

    def forward(self, x):
        return getattr(self, self.name)(x)


for _name in ("module", "model", "_orig_mod", "state_dict_", "net"):
    odd("right")(lambda name=_name: Named(name), f"child_called_{_name.strip('_')}")  # type: ignore[call-arg]


@odd("right")
def in_data_parallel():
    return nn.DataParallel(Whole())


@cnn("right", parts={"again": lambda: nn.Linear(32, CLASSES)})
def tied_weights(net, x):
    net.again.weight = net.fc.weight
    return net.again(net.trunk(x).mean((2, 3)))


@odd("refused", word="layer", enlivened=False)
class no_layers(nn.Module):  # noqa: N801 - the names of the table
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 3))

    def forward(self, x):
        return F.linear(x.mean((2, 3)), self.weight)


@odd("refused", word="weights", enlivened=False)
class no_weights(nn.Module):  # noqa: N801
    def forward(self, x):
        return x.mean((2, 3))


@odd(EITHER)
class weights_used_by_functions(nn.Module):  # noqa: N801
    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(16, 3, 3, 3) / 5)
        self.second, self.fc = nn.Parameter(torch.randn(CLASSES, 16)), nn.Identity()

    def forward(self, x):
        return self.fc(F.relu(F.conv2d(x, self.first, stride=4)).mean((2, 3)) @ self.second.T)


@odd("right")
def sequential():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(True), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip


@cnn("right")
def own_hooks(net, x):
    hook = net.c3.register_forward_hook(lambda _module, _inputs, output: output * 2)
    maps = net.trunk(x)
    hook.remove()
    return net.head(maps)


@cnn("right", parts={"last": lambda: nn.ModuleDict({"deep": nn.Conv2d(32, 32, 1)})})
def called_by_keyword(net, x):
    return net.head(F.relu(net.last["deep"](input=net.trunk(x))))


@cnn(EITHER, parts={"last": lambda: nn.Conv2d(32, 32, 1)})
def calls_forward_itself(net, x):
    return net.head(F.relu(net.last.forward(net.trunk(x))))


@cnn(EITHER)
def branches_on_a_value(net, x):
    maps = net.trunk(x)
    return net.head(maps) if float(maps.mean()) > 0 else -net.head(maps)


@cnn("refused")
def raises(net, x):
    raise RuntimeError("out of\ncheese")


@cnn(EITHER)
def stops_on_a_picture_of_one_colour(net, x):
    if float(x.std()) < 1e-6:
        raise ValueError("a picture of one colour")
    return net.head(net.trunk(x))


@cnn(EITHER)
def scores_above_a_million(net, x):
    return 1e8 * net.head(net.trunk(x))


@cnn(EITHER)
def scores_below_a_millionth(net, x):
    return 1e-8 * net.head(net.trunk(x))


@cnn(EITHER)
def infinite_off_the_gate(net, x):
    maps = net.trunk(x)
    return net.head(torch.where(maps > 0, maps.clamp(min=1e-6).log(), torch.zeros_like(maps)))


@cnn(EITHER)
def sparse_inside(net, x):
    maps = net.trunk(x).flatten(1)
    return net.fc(torch.sparse.mm(torch.eye(len(x), dtype=x.dtype).to_sparse(), maps).unflatten(1, (32, 256)).mean(2))
