"""Every rule against autograd, over the shapes and settings that trip up hand-written gradients."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from export.tracing import resampling
from export.tracing.backward_rules import backward_rules, rule
from export.tracing.onnx_export import trace_batch

aten = torch.ops.aten


@pytest.fixture(autouse=True, params=[False, True], ids=["products", "choices"])
def table(request, monkeypatch):
    """Every rule in both its forms, of networks whose gradients are bounded and of others."""
    monkeypatch.setitem(globals(), "backward_rules", partial(backward_rules, poles=request.param))
    return request.param


def traced_gradient(function, inputs):
    """Autograd's gradient of a weighted sum of the output, and the same through the rules."""

    def gradient(x):
        x = x.detach().requires_grad_(True)
        y = function(x)
        weights = torch.linspace(-1, 1, y.numel(), dtype=x.dtype).reshape(y.shape)
        return torch.autograd.grad((y * weights).sum(), x)[0]

    graph = make_fx(gradient, decomposition_table=backward_rules())(inputs)
    left = [str(node.target) for node in graph.graph.nodes if "backward" in str(node.target)]
    assert left == []
    return gradient(inputs), graph(inputs)


def pictures(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_equal(function, inputs):
    expected, actual = traced_gradient(function, inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (5, 12)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        (1, 1, 0, 1, 1),
        (1, 2, 0, 1, 1),
        (3, 1, 1, 1, 1),
        (3, 1, 0, 1, 2),
        (3, 2, 1, 1, 1),
        (3, 2, 1, 1, 4),
        (3, 3, 2, 1, 1),
        (3, 1, 2, 2, 1),
        (3, 2, 2, 2, 2),
        (5, 2, 1, 1, 1),
        (2, 2, 0, 1, 1),
        ((1, 3), 1, (0, 1), 1, 1),
        ((3, 1), (2, 1), (1, 0), 1, 2),
        (1, 1, 2, 1, 1),
    ],
)
def test_convolution(size, kernel, stride, padding, dilation, groups):
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = pictures(8, 4 // groups, *sides, seed=1)
    bias = pictures(8, seed=2)
    assert_equal(lambda x: F.conv2d(x, weight, bias, stride, padding, dilation, groups), pictures(2, 4, *size))


@pytest.mark.parametrize(
    "activation", [F.relu, F.relu6, F.hardtanh, F.hardswish, F.silu, F.gelu, F.elu, F.mish, F.softplus]
)
def test_activations(activation):
    assert_equal(activation, pictures(3, 50) * 4)


def test_hardsigmoid():
    expected, actual = traced_gradient(F.hardsigmoid, pictures(3, 50) * 4)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=0)  # torch's own kernel takes 1/6 in float32


@pytest.mark.parametrize("activation", [F.relu, F.relu6])
def test_the_corners_of_relu_pass_what_autograd_passes(activation):
    assert_equal(activation, torch.tensor([-1.0, -0.0, 0.0, 1e-300, 6.0, 6.1], dtype=torch.float64))


@pytest.mark.parametrize("size", [(7, 9), (8, 8)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil_mode"),
    [
        *((3, 2, 1, 1, False), (3, 2, 0, 1, False), (3, 2, 0, 1, True), (2, 2, 0, 1, False), (3, 1, 1, 1, False)),
        *(((2, 3), (1, 2), (1, 1), 1, True), (3, 2, 1, 2, False), (2, 3, 1, (1, 2), True), (1, 2, 0, 1, False)),
        (2, None, 0, 1, True),
    ],
)
def test_max_pooling(size, kernel, stride, padding, dilation, ceil_mode):
    inputs = pictures(2, 3, *size)
    for values in (inputs, inputs.round()):  # of equal maxima, which rounding makes, the first
        assert_equal(lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode), values)


def test_max_pooling_without_an_axis_of_channels():
    assert_equal(lambda x: F.max_pool2d(x[:, 0], 3, 2, 1), pictures(2, 3, 7, 9))


def test_max_pooling_gives_ties_to_the_first():
    ties = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    ties[0, 1, ::2] = 1
    assert_equal(lambda x: F.max_pool2d(x, 3, 2, 1), ties)


@pytest.mark.parametrize("size", [(7, 9), (8, 8)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil_mode", "include", "divisor"),
    [
        (*case, include, divisor)
        for case in [(3, 2, 1, False), (3, 2, 1, True), (2, None, 0, False), ((3, 2), (1, 2), (1, 0), True)]
        for include, divisor in itertools.product([True, False], [None, 5])
    ],
)
def test_average_pooling(size, kernel, stride, padding, ceil_mode, include, divisor):
    assert_equal(lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil_mode, include, divisor), pictures(2, 3, *size))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil_mode", "include", "divisor"),
    [(2, None, 0, False, True, 5), (3, 2, 1, True, True, None), ((2, 3, 2), (1, 2, 3), (1, 0, 1), True, False, None)],
)
def test_average_pooling_of_volumes_of_as_many_pictures_as_there_are(
    kernel, stride, padding, ceil_mode, include, divisor
):
    """The operator itself is replaced, too: in ONNX it has no divisor, and windows beyond the cells are uncertain."""

    def gradient(x):
        x = x.detach().requires_grad_(True)
        y = F.avg_pool3d(x, kernel, stride, padding, ceil_mode, include, divisor)
        return y, torch.autograd.grad((y**2).sum(), x)[0]

    graph = trace_batch(gradient, [pictures(2, 2, 4, 6, 5)], backward_rules())
    assert not [node for node in graph.graph.nodes if "avg_pool" in str(node.target)]
    for batch in (1, 3):
        for actual, expected in zip(
            graph(pictures(batch, 2, 4, 6, 5)), gradient(pictures(batch, 2, 4, 6, 5)), strict=True
        ):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("output", [(7, 7), (1, 2), (5, 3)])
def test_adaptive_max_pooling(output):
    assert_equal(lambda x: F.adaptive_max_pool2d(x, output), pictures(2, 3, 8, 9))
    assert_equal(lambda x: F.adaptive_max_pool2d(x, output), pictures(2, 3, 8, 9).clamp(min=0.5))  # of ties the first
    assert_equal(lambda x: x.sum() * F.adaptive_max_pool2d(x, output), pictures(2, 3, 8, 9))  # its values


@pytest.mark.parametrize(
    ("stride", "padding", "output_padding", "groups", "dilation"),
    [(1, 0, 0, 1, 1), (2, 1, 1, 1, 1), (3, 0, 2, 2, 1), (2, 1, 0, 4, 2)],
)
def test_transposed_convolution(stride, padding, output_padding, groups, dilation):
    weight = pictures(4, 6 // 2, 3, 3, seed=1)
    assert_equal(
        lambda x: F.conv_transpose2d(x, weight, None, stride, padding, output_padding, groups, dilation),
        pictures(2, 4, 5, 6),
    )


def test_group_norm_and_reflected_padding():
    weight, bias = pictures(6, seed=1), pictures(6, seed=2)
    assert_equal(lambda x: F.group_norm(x, 3, weight, bias), pictures(2, 6, 4, 5))
    assert_equal(lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect") ** 2, pictures(2, 3, 5, 6))


@pytest.mark.parametrize("size", [(7, 9), (8, 6), (3, 4)])
@pytest.mark.parametrize("output", [(7, 7), (1, 2), (5, 3), (2, 2)])
def test_adaptive_average_pooling(size, output):
    assert_equal(lambda x: F.adaptive_avg_pool2d(x, output), pictures(2, 3, *size))


def test_layer_norm_and_softmax():
    assert_equal(lambda x: F.layer_norm(x, (6,)), pictures(4, 6))
    assert_equal(lambda x: F.softmax(x, dim=1), pictures(4, 6))


def test_slices_and_selections():
    assert_equal(lambda x: x[:, 1:3].square(), pictures(2, 4, 3))
    assert_equal(lambda x: x[:, 1].square(), pictures(2, 4, 3))


def test_an_operator_has_one_rule():
    with pytest.raises(ValueError, match="has a rule already"):
        rule(aten.threshold_backward.default)(lambda: None)


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(affine):
    weights = (pictures(6, seed=1), pictures(6, seed=2)) if affine else ()
    assert_equal(lambda x: F.layer_norm(x, (6,), *weights), pictures(2, 3, 4, 6))
    assert_equal(lambda x: F.layer_norm(x, (4, 6)), pictures(2, 3, 4, 6))


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(affine):
    mean, variance = pictures(3, seed=1), pictures(3, seed=2).abs() + 0.1
    weights = (pictures(3, seed=3), pictures(3, seed=4)) if affine else ()
    assert_equal(lambda x: F.batch_norm(x, mean, variance, *weights), pictures(2, 3, 4, 5))


def test_a_batch_norm_that_uses_the_batch():
    assert_equal(lambda x: F.batch_norm(x, None, None, training=True), pictures(2, 3, 4, 5))


@pytest.mark.parametrize("dim", [1, -1])
def test_the_gradient_of_a_product_with_and_without_zeros(dim):
    inputs = pictures(2, 4, 3)
    inputs[0, 1, 2] = inputs[1, 0, 0] = inputs[1, 2, 0] = 0
    assert_equal(lambda x: x.prod(dim), inputs)


@pytest.mark.parametrize("aligned", [True, False])
def test_bilinear_sampling_at_places_that_depend_on_the_picture(aligned):
    """A spatial transformer, some of whose places are outside."""

    def sampled(x):
        turned = torch.tensor([[0.9, 0.3, 0.2], [-0.4, 1.3, 0.1]], dtype=x.dtype) + x.mean((1, 2, 3))[:, None, None]
        grid = F.affine_grid(turned, [2, 3, 4, 7], align_corners=aligned)
        return F.grid_sample(x, grid, align_corners=aligned)

    assert_equal(sampled, pictures(2, 3, 5, 6))


@pytest.mark.parametrize("aligned", [True, False, None])
@pytest.mark.parametrize("size", [(5, 6), (1, 4), (3, 4, 2)])
def test_an_affine_grid_of_as_many_pictures_as_there_are(size, aligned):
    """The spatial transformer of PyTorch's tutorial, whose grid has the size of its input, and a grid of volumes."""

    def gradient(x):
        x = x.detach().requires_grad_(True)
        turned = torch.eye(len(size), len(size) + 1, dtype=x.dtype) * 0.9 + x.flatten(2).mean(2)[:, : len(size), None]
        grid = F.affine_grid(turned, list(x.shape), align_corners=aligned)
        sampled = F.grid_sample(x, grid, align_corners=aligned) if len(size) == 2 else grid
        return grid, torch.autograd.grad((sampled**2).sum(), x)[0]

    graph = trace_batch(gradient, [pictures(2, 3, *size)], backward_rules())
    for batch in (1, 2, 5):
        for actual, expected in zip(graph(pictures(batch, 3, *size)), gradient(pictures(batch, 3, *size)), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_sampling_of_other_kinds_has_no_rule():
    grid = torch.zeros(1, 2, 2, 2)
    with pytest.raises(NotImplementedError, match="other than bilinear"):
        traced_gradient(
            lambda x: F.grid_sample(x, grid, mode="nearest", align_corners=False), pictures(1, 1, 4, 4).float()
        )


@pytest.mark.parametrize(("shifts", "dims"), [(2, None), ((-3, 1), (1, 2)), ((0, 9), (2, 1)), ((1, 1), (1, 1))])
def test_window_shifts(shifts, dims):
    assert_equal(lambda x: torch.roll(x, shifts, dims) ** 2, pictures(2, 4, 5, 3))


@pytest.mark.parametrize("padding", [(1, 2), (1, 0, 2, 3), (-1, 2, 0, -1), (0, 0, 0, 0)])
def test_padding(padding):
    assert_equal(lambda x: F.pad(x, padding) ** 2, pictures(2, 3, 4, 5))


@pytest.mark.parametrize(
    "function",
    [
        nn.PReLU(3, dtype=torch.float64).requires_grad_(False),
        nn.RReLU().eval(),
        partial(F.glu, dim=2),
        nn.LogSigmoid(),
        nn.LogSoftmax(1),
        nn.Softplus(),
        nn.Mish(),
        nn.RMSNorm((6, 8), dtype=torch.float64).requires_grad_(False),
        nn.RMSNorm(8, elementwise_affine=False),
        nn.GroupNorm(3, 3, dtype=torch.float64).requires_grad_(False),
        nn.InstanceNorm2d(3),
        lambda x: F.lp_pool2d(x.abs() + 0.1, 3, (3, 2), 2),
        nn.ReplicationPad2d((1, 2, 3, 0)),
        nn.ReflectionPad2d((1, 2, 3, 0)),
        nn.LocalResponseNorm(2),
        nn.Conv2d(3, 4, (2, 3), padding="valid", dtype=torch.float64).requires_grad_(False),
        partial(F.interpolate, size=(4, 11), mode="bilinear", antialias=True),
        partial(F.interpolate, size=(13, 5), mode="bicubic", antialias=True),
        partial(F.interpolate, size=(13, 5), mode="bicubic"),
        partial(F.interpolate, size=(13, 5), mode="bilinear", align_corners=True),
        partial(F.interpolate, scale_factor=(2.5, 0.7), mode="nearest"),
        partial(F.interpolate, scale_factor=(2.5, 0.7), mode="nearest-exact"),
        partial(F.interpolate, size=(4, 5), mode="area"),
        lambda x: F.max_pool3d(x[:, None], (2, 3, 2), (1, 2, 2), (0, 1, 1)),
        lambda x: F.avg_pool3d(x[:, None], (2, 3, 2), (1, 2, 2), (0, 1, 1), count_include_pad=False),
        lambda x: F.adaptive_avg_pool3d(x[:, None], (2, 4, 5)),
        lambda x: F.pad(x[:, None], (1, 2, 2, 1, 1, 1), mode="replicate"),
        lambda x: x[:, [0, 2, 2, -1]],
        lambda x: x[:, :, [[0], [5], [-1]], [1, 1, 2]],
        lambda x: x[:, [0, 1], :, [2, 2]],
        lambda x: x.index_select(1, torch.tensor([0, 0, 2])),
        lambda x: torch.zeros_like(x).index_add(-1, torch.tensor([0, 1, 1, 3, 3, 3, 2, -1]).abs(), x, alpha=2),
        lambda x: x.unfold(2, 4, 3).unfold(3, 3, 1),
        lambda x: x.unfold(3, 2, 3),
        lambda x: x.unfold(-1, 3, 1),
        lambda x: F.unfold(x, 3, padding=1, stride=2),
        lambda x: F.fold(F.unfold(x, 2), (6, 8), 2),
    ],
)
def test_further_operators(function):
    assert_equal(lambda x: function(x).square(), pictures(2, 3, 6, 8))


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_matrix_for_each_axis_is_applied_without_multiplying_zeros(axis):
    values, matrix = pictures(2, 3, 4, 4, 4), [[0.0, 2.0, 0.5], [1.0, 0.0, 0.5], [0.0, 0.0, 0.5], [3.0, 0.0, 0.0]]
    gathered = resampling.gathered(values, matrix, axis)
    torch.testing.assert_close(gathered, resampling.multiplied(values, matrix, axis))
    values.select(axis, 1)[:] = math.inf
    gathered = resampling.gathered(values, matrix, axis)
    assert gathered.select(axis, 0).isinf().all()
    assert gathered.select(axis, 1).isfinite().all()


def test_an_operator_that_mixes_the_axes_is_refused():
    with pytest.raises(NotImplementedError, match="mixes the axes"):
        resampling.matrices(lambda values: values + values.transpose(2, 3), [3, 3])


def test_attention():
    bias = pictures(4, 4, seed=1)

    def attend(x):
        query, key, value = x.chunk(3, dim=-1)
        return (query @ key.transpose(-2, -1) + bias).softmax(-1) @ value

    assert_equal(attend, pictures(2, 3, 4, 15))


def steep(values):
    """Its gradient is infinite at zero."""
    return values.abs().sqrt()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: steep(F.relu(x)),
        lambda x: steep(F.relu6(x)),
        lambda x: steep(F.hardsigmoid(x)),
        lambda x: F.relu(x) ** 0.5,
        lambda x: F.relu(x).norm(dim=(2, 3)),
        lambda x: F.relu(x) / F.relu(x).square().sum(1, keepdim=True).sqrt(),
        lambda x: F.relu(x) * F.relu(x).log(),
        lambda x: steep(F.max_pool2d(F.relu(x), 2)),
        lambda x: steep(F.avg_pool2d(F.relu(x), 2)),
        lambda x: steep(F.avg_pool2d(F.relu(x), 3, 2, 1, ceil_mode=True, count_include_pad=False)),
        lambda x: steep(F.adaptive_avg_pool2d(F.relu(x), (3, 5))),
        lambda x: steep(F.conv2d(F.relu(x), torch.ones(2, 2, 1, 1, dtype=x.dtype), stride=2)),
        lambda x: steep(F.conv2d(F.relu(x), torch.ones(2, 1, 3, 3, dtype=x.dtype), stride=2, padding=1, groups=2)),
    ],
)
@pytest.mark.parametrize("table", [True], indirect=True)
def test_a_closed_gate_stops_an_infinite_gradient(function):
    inputs = pictures(2, 2, 8, 10)
    inputs[:, :, 1:7, 2:8] = -inputs[:, :, 1:7, 2:8].abs()  # whole windows behind closed gates
    inputs[:, :, -1] = 1 + inputs[:, :, -1].abs()  # and open ones in the same columns
    expected, actual = traced_gradient(function, inputs)
    assert expected.count_nonzero() > 0
    assert expected.isfinite().all()
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-12)


def test_a_trace_with_a_symbolic_batch_serves_every_batch():
    """Padding and pooling are what a batch of two was once frozen into."""

    def gradient(x):
        x = x.detach().requires_grad_(True)
        y = F.adaptive_avg_pool2d(F.pad(x.roll(1, 2), (0, 1, 1, 0)).permute(0, 2, 3, 1).contiguous(), 1)
        return torch.autograd.grad((y**2).sum(), x)[0]

    graph = trace_batch(gradient, [pictures(2, 3, 4, 5)], backward_rules())
    for batch in (1, 2, 5):
        torch.testing.assert_close(graph(pictures(batch, 3, 4, 5)), gradient(pictures(batch, 3, 4, 5)))


def test_a_function_that_is_made_for_one_batch_size_is_refused():
    with pytest.raises(ValueError, match="it works on a batch of 2 only"):
        trace_batch(lambda x: x.reshape(2, 3), [pictures(2, 3)], {})


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool1d(1), nn.AdaptiveAvgPool1d((1,))])
def test_global_pooling_of_tokens_is_traced_without_strides(pool):
    """ATen's own sets the strides of maps that are channels last, as tokens behind a transpose are."""

    def gradient(tokens):
        tokens = tokens.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(pool(tokens.transpose(1, 2)).flatten(1).square().sum(), tokens)
        return found

    tokens = torch.randn(2, 9, 5)
    graph = trace_batch(gradient, (tokens,), backward_rules())
    assert not [node for node in graph.graph.nodes if "strided" in str(node.target)]
    torch.testing.assert_close(graph(tokens), gradient(tokens))


def test_a_trace_has_no_operator_whose_result_nobody_takes():
    """Torch's own rule of batch norms computes the gradients at its weights, too, by sums over the pictures."""
    norm = nn.BatchNorm2d(3).eval().requires_grad_(False)

    def gradient(x):
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(norm(x), x, torch.ones_like(x))[0]

    graph = trace_batch(gradient, [torch.randn(2, 3, 4, 4)], backward_rules())
    assert all(node.users for node in graph.graph.nodes if node.op == "call_function")
    assert "rsqrt" in graph.code  # of the rule
    assert "sum" not in graph.code
