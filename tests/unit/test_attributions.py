"""The attributions against their formulas, written as loops, and the contract that they all keep."""

import numpy as np
import pytest
import torch

import dcam_plugins.plugin
from dcam_core.attribution import Attribution
from dcam_core.errors import ConfigurationError
from dcam_core.plugins.registry import import_object
from dcam_plugins.attributions import (
    DiffusionCAMBase,
    EigenCAM,
    ElementWiseGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    GradTimesInput,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)

B, N, C = 2, 6, 5


def relu(value):
    return max(value, 0.0)


def grad_cam(f, g, s):
    return relu(sum(g[:, c].mean() * f[s, c] for c in range(C)))


def gated_grad_cam(f, g, s):
    return relu(sum(sum(relu(x) for x in g[:, c]) / N * f[s, c] for c in range(C)))


def hires_cam(f, g, s):
    return relu(sum(g[s, c] * f[s, c] for c in range(C)))


def layer_cam(f, g, s):
    return relu(sum(relu(g[s, c]) * f[s, c] for c in range(C)))


def grad_times_input(f, g, s):
    return sum(abs(g[s, c] * f[s, c]) for c in range(C))


def diffusion_cam_base(f, g, s):
    return sum(relu(sum(relu(g[t, c]) for t in range(N)) / N * f[s, c]) for c in range(C)) / C


def released_grad_cam(f, g, s):
    return sum(relu(g[:, c].mean() * f[s, c]) for c in range(C)) / C


def grad_cam_plus_plus(f, g, s):
    def weight(c):
        everywhere = f[:, c].sum()
        alphas = [x**2 / (2 * x**2 + everywhere * x**3 + 1e-6) for x in g[:, c]]
        return sum(relu(x) * alpha for x, alpha in zip(g[:, c], alphas, strict=True))

    return relu(sum(weight(c) * f[s, c] for c in range(C)))


def xgrad_cam(f, g, s):
    return relu(sum((g[:, c] * f[:, c]).sum() / (f[:, c].sum() + 1e-7) * f[s, c] for c in range(C)))


def element_wise_grad_cam(f, g, s):
    return sum(relu(g[s, c] * f[s, c]) for c in range(C))


def one_sided(f, g, s):
    speaks_for = element_wise_grad_cam(f, g, s)
    against = element_wise_grad_cam(f, -g, s)
    return speaks_for * (speaks_for / (speaks_for + against)) ** 3


def eigen_cam(f, g, s):
    spread = f.numpy() - f.numpy().mean(axis=0)
    values, vectors = np.linalg.eig(spread.T @ spread)  # by covariance of channels: the other way round
    projection = spread @ vectors[:, values.argmax()]
    return relu(float(projection[s] * np.sign(projection[np.abs(projection).argmax()])))


FORMULAS = [
    (GradCAM(), grad_cam, False),
    (GradCAM(centre=True), grad_cam, True),
    (GradCAM(gate_gradients=True), gated_grad_cam, False),
    (HiResCAM(), hires_cam, False),
    (HiResCAM(centre=True), hires_cam, True),
    (LayerCAM(), layer_cam, False),
    (GradCAMPlusPlus(), grad_cam_plus_plus, False),
    (XGradCAM(), xgrad_cam, False),
    (ElementWiseGradCAM(), element_wise_grad_cam, False),
    (ElementWiseGradCAM(centre=True), element_wise_grad_cam, True),
    (ElementWiseGradCAM(one_sided=3), one_sided, False),
    (EigenCAM(), eigen_cam, False),
    (GradTimesInput(), grad_times_input, False),
    (GradTimesInput(centre=True), grad_times_input, True),
    (DiffusionCAMBase(), diffusion_cam_base, False),
    (DiffusionCAMBase(gate_gradients=False), released_grad_cam, False),
]


def readings(dtype=torch.float64, batch=B):
    generator = torch.Generator().manual_seed(3)
    activations, gradients = torch.randn(2, batch, N, C, dtype=torch.float64, generator=generator)
    return (activations + 0.5).to(dtype), gradients.to(dtype)


@pytest.mark.parametrize(("attribution", "formula", "centre"), FORMULAS)
def test_formula(attribution, formula, centre):
    activations, gradients = readings()
    features = activations - activations.mean(dim=1, keepdim=True) if centre else activations
    expected = torch.tensor(
        [[formula(features[b], gradients[b], s) for s in range(N)] for b in range(B)], dtype=torch.float64
    )
    assert expected.max() > 0
    torch.testing.assert_close(attribution(activations, gradients), expected)


def registered():
    names = {}
    dcam_plugins.plugin.dcam_register_attributions(names.__setitem__)
    return {name: where for name, where in names.items() if issubclass(import_object(where), Attribution)}


def test_all_are_registered():
    assert {type(attribution) for attribution, *_ in FORMULAS} == set(
        map(import_object, registered().values())
    )


@pytest.fixture(params=registered().items(), ids=lambda item: item[0])
def attribution(request):
    return import_object(request.param[1])()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_contract(attribution, dtype):
    activations, gradients = readings(dtype)
    before = activations.clone(), gradients.clone()
    raw = attribution(activations, gradients)
    assert raw.shape == (B, N)
    assert raw.dtype == torch.promote_types(dtype, torch.float32)
    assert raw.isfinite().all()
    assert (raw >= 0).all()
    assert torch.equal(activations, before[0])
    assert torch.equal(gradients, before[1])
    assert torch.equal(raw, attribution(activations, gradients))


def test_a_reading_is_the_same_alone_and_in_a_batch(attribution):
    activations, gradients = readings(batch=4)
    together = attribution(activations, gradients)
    alone = torch.cat([attribution(a[None], g[None]) for a, g in zip(activations, gradients, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)


def test_readings_may_share_their_activations(attribution):
    activations, gradients = readings()
    shared = activations[:1].expand(B, -1, -1)
    expected = attribution(shared.contiguous(), gradients)
    torch.testing.assert_close(attribution(shared, gradients), expected, atol=1e-12, rtol=0)


def test_no_gradient_no_evidence(attribution):
    activations, gradients = readings()
    evidence = attribution(activations, torch.zeros_like(gradients))
    if isinstance(attribution, EigenCAM):  # it looks at none
        assert torch.equal(evidence, attribution(activations, gradients))
    else:
        assert torch.equal(evidence, torch.zeros(B, N).double())


def test_half_precision_sums_do_not_overflow(attribution):
    # Each product is 1, and 100 000 of them are more than float16 can hold.
    ones = torch.ones(1, 2, 100_000, dtype=torch.float16)
    assert attribution(ones, ones).isfinite().all()


def test_everything_is_made_on_the_device_of_the_readings(attribution):
    activations, gradients = readings()
    expected = attribution(activations, gradients)
    with torch.device("meta"):  # what is made without saying where lands there, and cannot meet the readings
        assert torch.equal(attribution(activations, gradients), expected)


def test_eigen_cam_sees_nothing_where_tokens_do_not_differ():
    # 0.1 is not exact: its mean over three tokens is off by a rounding error, which must not become a map.
    even = torch.full((1, 3, 7), 0.1)
    assert torch.equal(EigenCAM()(even, torch.zeros_like(even)), torch.zeros(1, 3))


def test_eigen_cam_turns_the_outlier_up():
    activations = torch.zeros(2, 5, 3)
    activations[0, 2], activations[1, 2] = 4.0, -4.0
    evidence = EigenCAM()(activations, torch.zeros_like(activations))
    assert evidence.argmax(dim=1).tolist() == [2, 2]
    assert ((evidence > 1e-4).sum(dim=1) == 1).all()


def test_grad_cam_plus_plus_of_a_channel_without_gradient():
    activations, gradients = readings()
    gradients[:, :, 1:] = 0
    expected = GradCAMPlusPlus()(activations[..., :1], gradients[..., :1])
    torch.testing.assert_close(GradCAMPlusPlus()(activations, gradients), expected)


def test_a_token_in_which_nothing_speaks_has_no_evidence():
    activations, gradients = readings()
    gradients[:, 0] = 0
    found = ElementWiseGradCAM(one_sided=3)(activations, gradients)
    assert found.isfinite().all()
    assert (found[:, 0] == 0).all()
    with pytest.raises(ConfigurationError, match="one_sided is -1"):
        ElementWiseGradCAM(one_sided=-1)
