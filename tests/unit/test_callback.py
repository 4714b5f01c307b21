"""The training callback: what it shows and when, and that the training does not notice."""

import random
import subprocess
import sys

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from peft import LoraConfig, inject_adapter_in_model
from support.toy_training import ToyTraining, batches, fit, scene, trainer
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from dcam_core import Explainer
from dcam_core.errors import ConfigurationError
from dcam_core.testing.toy import toy_adapter, toy_picture
from dcam_core.training import DiffusionCAM
from dcam_core.training.undisturbed import undisturbed

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)

SMALL = {"probe_layer": 0, "metrics": [], "reliance": False, "max_time_fraction": None, "strict": True}
"""What takes little time; a test that is about more says so."""


def numbers_drawn():
    return random.random(), np.random.rand(), torch.rand(1).item()


def state_of(module):
    """Everything that training leaves: losses, weights, moments of the optimiser, the next random numbers."""
    moments = module.trainer.optimizers[0].state_dict()["state"] if module.trainer.optimizers else {}
    flat = [tensor for entry in moments.values() for tensor in entry.values()]
    return module.losses, [*module.state_dict().values(), *flat], numbers_drawn()


def assert_same(one, other):
    assert one[0] == other[0]
    assert len(one[1]) == len(other[1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))
    assert one[2] == other[2]


# -- training is not disturbed -------------------------------------------------------------------------------


def broken(batch):
    numbers_drawn()  # and then it fails: the worst that a user's function does
    raise RuntimeError("the user's function is broken")


class Counting(ToyTraining):
    """Its forward passes write into buffers: one in place, one by putting another tensor there."""

    def __init__(self, *, breaks=False):
        super().__init__()
        first, second, last = self.model.blocks
        first.register_buffer("calls", torch.zeros(2))
        second.register_buffer("mean", torch.zeros(2))
        first.register_forward_hook(self.counts)
        second.register_forward_hook(self.averages)
        if breaks:
            last.register_forward_hook(self.fails)

    def counts(self, block, args, out):
        block.calls += 1

    def averages(self, block, args, out):
        block.mean = block.mean / 2 + out[0].mean().detach()

    def fails(self, block, args, out):
        if not block.training:
            numbers_drawn()
            raise RuntimeError("in the middle of a replay")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_fifty_steps_are_bit_identical_with_it_without_it_and_while_it_fails(tmp_path, accumulate):
    settings = {"max_steps": 50, "accumulate_grad_batches": accumulate}
    plain = state_of(fit(tmp_path, module=Counting(), **settings))
    showing = DiffusionCAM([scene()], every_n_train_steps=25, **SMALL)
    failing = DiffusionCAM([scene()], every_n_train_steps=10, **{**SMALL, "strict": False})
    assert_same(state_of(fit(tmp_path, showing, module=Counting(), **settings)), plain)
    assert_same(state_of(fit(tmp_path, failing, module=Counting(breaks=True), **settings)), plain)
    assert [moment["step"] for moment in showing.history] == [0, 25, 50]
    assert failing.failed == 6
    assert failing.history == []


def test_an_error_ends_training_where_it_is_asked_for(tmp_path):
    with pytest.raises(RuntimeError, match="function is broken"):
        fit(tmp_path, DiffusionCAM(broken, every_n_train_steps=2, **SMALL), max_steps=4)


def lora(module):
    # Its first weights are random: the same for every module.
    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["mlp.0", "mlp.3"])
    inject_adapter_in_model(config, module.model)
    module.model.train()


def checkpointed(module):
    for block in module.model.blocks:
        inner = block.forward
        block.forward = lambda *args, inner=inner: checkpoint(inner, *args, use_reentrant=False)


@pytest.mark.parametrize("change", [lora, checkpointed, lambda module: None])
def test_it_goes_with_mixed_precision_lora_and_checkpointing(tmp_path, change):
    def run(*callbacks):
        module = ToyTraining()
        change(module)
        return fit(tmp_path, *callbacks, module=module, max_steps=4, precision="bf16-mixed")

    callback = DiffusionCAM([scene()], every_n_train_steps=2, **SMALL)
    plain = run()
    expected = state_of(plain)
    shown = run(callback)
    assert_same(state_of(shown), expected)
    flags = [[p.requires_grad for p in module.parameters()] for module in (plain, shown)]
    assert flags[0] == flags[1]
    assert len(callback.history) == 3


@pytest.mark.slow
def test_what_is_compiled_is_neither_compiled_again_nor_trained_otherwise(tmp_path):
    counters = pytest.importorskip("torch._dynamo.utils").counters
    torch._dynamo.reset()
    counters.clear()

    def run(*callbacks):
        module = ToyTraining()
        for block in module.model.blocks:
            block.compile(backend="aot_eager")
        return fit(tmp_path, *callbacks, module=module, max_steps=4)

    callback, uncompiled = (DiffusionCAM([scene()], every_n_train_steps=2, **SMALL) for _ in range(2))
    plain = state_of(run())
    graphs = dict(counters["stats"])
    assert graphs["unique_graphs"] == 1  # for all blocks, which are called at one length
    assert_same(state_of(run(callback)), plain)
    assert dict(counters["stats"]) == graphs
    fit(tmp_path, uncompiled, max_steps=1)
    assert callback.history[0] == uncompiled.history[0]


def interrupted(module):
    with undisturbed(module):
        numbers_drawn()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert not any(part.training for part in module.modules())
        raise KeyboardInterrupt


def test_everything_is_left_as_it_was_found_also_by_an_error():
    module = ToyTraining()
    module.model.blocks[0].eval()
    module.model.head.weight.requires_grad_(False)
    module.model.patch.weight.grad = torch.ones(24, 3)
    modes = [part.training for part in module.modules()]
    flags = [p.requires_grad for p in module.parameters()]
    L.seed_everything(5, verbose=False)
    expected = numbers_drawn()
    L.seed_everything(5, verbose=False)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(KeyboardInterrupt):
            interrupted(module)
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert numbers_drawn() == expected
    assert [part.training for part in module.modules()] == modes
    assert [p.requires_grad for p in module.parameters()] == flags
    assert torch.equal(module.model.patch.weight.grad, torch.ones(24, 3))
    assert not any(part._forward_hooks for part in module.modules())


def test_weights_that_were_gathered_meanwhile_are_trained_afterwards(mesh):
    module = fully_shard(torch.nn.Linear(2, 1), mesh=mesh)
    sharded = module.weight
    with undisturbed(module):
        module(torch.ones(1, 2))
        assert module.weight is not sharded  # the outermost module keeps what it gathered
    module(torch.ones(1, 2)).sum().backward()
    assert module.weight is sharded
    assert sharded.grad.full_tensor().tolist() == [[1, 1]]


# -- when ----------------------------------------------------------------------------------------------------


def test_by_default_it_explains_before_training_and_every_epoch(tmp_path):
    callback = DiffusionCAM([scene()], **SMALL)
    fit(tmp_path, callback, max_epochs=2)
    assert [(moment["stage"], moment["step"]) for moment in callback.history] == [
        ("train", s) for s in (0, 8, 16)
    ]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_validating_and_testing_give_the_maps_of_the_engine_in_inference_mode(tmp_path, verb):
    module, callback = ToyTraining(), DiffusionCAM([scene()], **SMALL)
    getattr(trainer(tmp_path, callback), verb)(module, batches(), verbose=False)
    assert [moment["stage"] for moment in callback.history] == [verb]
    explainer = Explainer(toy_adapter(), probe_layer=0)
    wanted = explainer.explain(toy_picture(), "the red circle", "all", answer="a red circle", baselines=[])
    shown = callback._attach(module).show(scene())
    assert [word.label for word in shown.words] == ["a", "red", "circle"]
    assert torch.equal(torch.stack([word.map for word in shown.words]), wanted.maps)


def test_it_is_silent_during_sanity_checking_and_sees_averaged_weights(tmp_path):
    seen = []
    module = ToyTraining()

    def chosen(batch):
        seen.append(module.model.head.weight.detach().clone())
        return [scene()]

    average = EMAWeightAveraging(decay=0.5)
    callback = DiffusionCAM(chosen, every_n_train_steps=100, during_validation=True, **SMALL)
    # Before the averaging callback, so that the order of the two could matter.
    runner = trainer(tmp_path, callback, average, max_epochs=1, num_sanity_val_steps=2)
    weights = []
    module.on_train_end = lambda: weights.append(module.model.head.weight.detach().clone())
    runner.fit(module, batches(8), batches(8))
    assert [moment["stage"] for moment in callback.history] == ["validate"]
    assert len(seen) == 1
    averaged = average._average_model.module.model.head.weight
    assert torch.equal(seen[0], averaged)


def test_its_time_is_bounded_stands_in_the_profiler_and_what_is_left_out_is_told(tmp_path, caplog):
    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")
    callback = DiffusionCAM([scene()], every_n_train_steps=1, **{**SMALL, "max_time_fraction": 1e-6})
    module = fit(tmp_path, callback, max_steps=6, profiler="simple")
    assert [moment["step"] for moment in callback.history] == [0]
    assert callback.left_out == 6
    assert len(module.trainer.profiler.recorded_durations["DiffusionCAM.explain"]) == 1
    assert caplog.text.count("at step 1 nothing is explained") == caplog.text.count("max_time_fraction") == 1
    assert "6 explanations were left out" in caplog.text


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_train_steps": 0}, "every_n_train_steps is 0"),
        ({"every_n_train_steps": 2.5}, "every_n_train_steps is 2.5: give a whole number"),
        ({"deletion_intervals": -1}, "deletion_intervals is -1"),
        ({"probe_layers": 0}, "'probe_layers' is an argument neither of .* did you mean 'probe_layer'"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"max_time_fraction": 1.5}, "max_time_fraction is 1.5"),
        ({"max_frames": 1}, "max_frames is 1"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        DiffusionCAM(**{"samples": [scene()], **settings})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nothing.here", "ToyTraining has no attribute 'nothing.here'"),
        ("model", "gives a ToyModel for ToyTraining: an adapter is needed"),
        (toy_adapter(), "another model would be explained than is trained"),
        (lambda module: None, "gives a NoneType"),
    ],
)
def test_a_wrong_model_ends_training_although_errors_do_not(tmp_path, model, message):
    with pytest.raises(ConfigurationError, match=message):
        fit(tmp_path, DiffusionCAM([scene()], model=model), max_steps=1)


def test_lightning_is_imported_with_the_callback_alone():
    code = (
        "import sys, dcam_core, dcam_core.training; assert 'torch' not in sys.modules; "
        "dcam_core.training.DiffusionCAM; assert 'lightning' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
