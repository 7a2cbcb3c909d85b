"""The loop: resume equals no stop (also after SIGKILL), accumulation, schedules, groups, the guard against NaN."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from lhmforge.datasets.batch import Batch
from lhmforge.datasets.errors import ConfigError, DivergenceError
from lhmforge.lhm_model.optim import OptimConfig, learning_rate_at, parameter_groups
from lhmforge.lhm_model.parallel import SingleProcess
from lhmforge.lhm_model.train_loop import LoopConfig, ObjectiveValue, num_passes, train_loop


def _load_stand_in() -> ModuleType:
    path = Path(__file__).with_name("stand_in.py")
    spec = importlib.util.spec_from_file_location("lhmforge_test_stand_in", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


stand_in = _load_stand_in()


def _weights(state: object) -> dict[str, torch.Tensor]:
    model = state.bare_model.state_dict()  # type: ignore[attr-defined]
    average = state.average.state_dict()  # type: ignore[attr-defined]
    moments = state.optimizer.state_dict()["state"]  # type: ignore[attr-defined]
    flat = {f"{k}.{n}": v for k, values in moments.items() for n, v in values.items()}
    return {**model, **{f"average.{k}": v for k, v in average.items()}, **flat}


def _assert_same(left: object, right: object) -> None:
    a, b = _weights(left), _weights(right)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The child process runs with one thread; sums over another number of threads round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_resumed_run_equals_undisturbed_run_bitwise(tmp_path: Path, one_thread: None) -> None:
    whole, recorder = stand_in.new_state(), stand_in.Recorder()
    stand_in.run(whole, recorder)
    script = Path(stand_in.__file__)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, script, tmp_path, "7"], env=env, check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed, second = stand_in.resume(tmp_path), stand_in.Recorder(tmp_path)
    assert resumed.counters.step == 6 and resumed.counters.samples_seen == 24
    stand_in.run(resumed, second)
    _assert_same(whole, resumed)
    losses = {step: values["loss"] for step, values in recorder.logged if "loss" in values}
    again = {step: values["loss"] for step, values in second.logged if "loss" in values}
    assert again == {step: losses[step] for step in range(7, 11)}


def test_accumulation_gives_the_gradient_of_the_global_batch() -> None:
    gradients = []
    for batch_size in (4, 1):
        state = stand_in.new_state(batch_size, dropout=0.0)
        stand_in.run(state, stand_in.Recorder(), num_steps=3, batch_size=batch_size)
        gradients.append(state.bare_model.state_dict())
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_global_batch_must_divide() -> None:
    assert num_passes(8, batch_size=2, world_size=2) == 2
    with pytest.raises(ConfigError, match="no multiple"):
        num_passes(6, batch_size=2, world_size=2)


def test_divergence_names_the_samples_and_keeps_the_good_weights() -> None:
    state = stand_in.new_state()
    before = {k: v.clone() for k, v in state.bare_model.state_dict().items()}

    def poisoned(model: nn.Module, batch: Batch, step: int) -> ObjectiveValue:
        value = stand_in.squared_error(model, batch, step)
        return replace(value, total=value.total * float("nan")) if "s2" in batch.sample_ids else value

    config = LoopConfig(num_steps=3, global_batch_size=4)
    with pytest.raises(DivergenceError, match="s2") as caught:
        train_loop(
            state,
            poisoned,
            config=config,
            optim=stand_in.OPTIM,
            seed=0,
            batch_size=2,
            group=SingleProcess(),
            device=torch.device("cpu"),
            reporter=stand_in.Recorder(),
        )
    assert "step 0" in str(caught.value)
    for name, value in state.bare_model.state_dict().items():
        assert torch.equal(value, before[name])


def test_infinite_loss_with_finite_gradient_is_caught() -> None:
    state = stand_in.new_state()

    def shifted(model: nn.Module, batch: Batch, step: int) -> ObjectiveValue:
        value = stand_in.squared_error(model, batch, step)
        return replace(value, total=value.total + float("inf"))

    with pytest.raises(DivergenceError):
        train_loop(
            state,
            shifted,
            config=LoopConfig(num_steps=1, global_batch_size=2),
            optim=stand_in.OPTIM,
            seed=0,
            batch_size=2,
            group=SingleProcess(),
            device=torch.device("cpu"),
            reporter=stand_in.Recorder(),
        )


def test_model_hears_every_step_and_last_step_reports_everything() -> None:
    state, recorder = stand_in.new_state(), stand_in.Recorder()
    stand_in.run(state, recorder, num_steps=3)
    assert state.bare_model.step == 2
    steps = [step for step, values in recorder.logged if "psnr" in values]
    assert steps == [2, 3]
    assert {"loss", "loss_mse", "grad_norm", "learning_rate", "step_s", "fetch_s"} <= recorder.logged[0][1].keys()


def test_cosine_warms_up_and_reaches_zero() -> None:
    config = OptimConfig(learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate_at(step, num_steps=100, config=config) for step in range(101)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(1.0, abs=0.01) and rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a <= b for a, b in itertools.pairwise(rates[:11]))
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_constant_schedule_does_not_depend_on_the_horizon_before_its_cooldown() -> None:
    config = OptimConfig(learning_rate=1.0, warmup_steps=0, schedule="constant", cooldown_fraction=0.2)
    assert (
        learning_rate_at(79, num_steps=100, config=config) == learning_rate_at(79, num_steps=1000, config=config) == 1.0
    )
    assert learning_rate_at(90, num_steps=100, config=config) == pytest.approx(0.5)
    assert learning_rate_at(100, num_steps=100, config=config) == 0.0


def test_parameter_groups_hold_every_parameter_once() -> None:
    model = stand_in.StandIn()
    decay, no_decay = parameter_groups(model, 0.05)
    linear = [model.first, model.second, *(block.inner for block in model.blocks)]
    assert {id(p) for p in decay["params"]} == {id(layer.weight) for layer in linear}  # type: ignore[union-attr]
    names = {id(p): n for n, p in model.named_parameters()}
    exempt = {names[id(p)] for p in no_decay["params"]}  # type: ignore[union-attr]
    in_blocks = {f"blocks.{i}.{name}" for i in range(2) for name in ("inner.bias", "norm.weight", "norm.bias")}
    assert exempt == {"first.bias", "second.bias"} | in_blocks
    assert no_decay["weight_decay"] == 0.0
