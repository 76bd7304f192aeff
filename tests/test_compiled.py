"""`compile=convolutions`: the same numbers, one compilation for all lengths, and nobody who looks is misled."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from heartnet.diagnostics.isolate import bare_copy, isolated
from heartnet.errors import HeartnetError
from heartnet.model import DeepHeart, HourlyCNN, TwoTimescale, pieces
from heartnet.model import compiled as compiled_file
from heartnet.model.compiled import Compilable, compile_convolutions
from heartnet.model.dropout import stream

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    jaxtyping.config.update("jaxtyping_disable", True)  # shapes are checked in Python that cannot be compiled
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", False)


class Graphs:
    """A backend of `torch.compile` that compiles nothing, and counts what it is given and how often it runs."""

    def __init__(self) -> None:
        self.compiled, self.runs = 0, 0

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.compiled += 1

        def run(*inputs: Any) -> Any:
            self.runs += 1
            return graph.forward(*inputs)

        return run


class Scores(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        scores: Tensor = self.network(inputs, lengths).score
        return scores


def deepheart(**options: Any) -> DeepHeart:
    torch.manual_seed(0)
    return DeepHeart(**{"conv_units": 4, "lstm_units": 4, "lstm_layers": 1, "dropout": 0.0, **options})


def batch_of(time: int, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(time)
    lengths = torch.randint(1, time + 1, (batch,), generator=generator)
    lengths[0] = time
    inputs = torch.randn(batch, time, 3, generator=generator)
    return inputs * (torch.arange(time)[:, None] < lengths[:, None, None]), lengths


def gradients(network: nn.Module, time: int) -> dict[str, Tensor]:
    """Return the scores and the gradients of their squares."""
    network.zero_grad()
    score = network(*batch_of(time)).score
    score.square().sum().backward()
    return {"score": score.detach(), **{name: each.grad for name, each in network.named_parameters()}}


def agree(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name} {text}"
        )


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        (deepheart, "eager"),
        (lambda: TwoTimescale(conv_units=4, lstm_units=4, dropout=0), "eager"),
        pytest.param(lambda: deepheart(pool=2, clock="elapsed"), "aot_eager", marks=pytest.mark.slow),
    ],
    ids=["deepheart", "two timescales", "pooled, with a clock"],
)
def test_scores_and_gradients_stay(make: Any, backend: str) -> None:
    plain, compiled = make(), make()
    compiled.load_state_dict(plain.state_dict())
    compile_convolutions(compiled, CPU, backend)
    for time in (40, 33):
        agree(gradients(compiled, time), gradients(plain, time))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile with")
@pytest.mark.parametrize("pool", [1, 4])
def test_so_they_do_with_a_real_compiler_and_no_length_is_compiled_anew(
    pool: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain, compiled = deepheart(pool=pool), deepheart(pool=pool)
    compile_convolutions(compiled, CPU)
    agree(gradients(compiled, 40), gradients(plain, 40))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for time in (33, 70, 700):
        agree(gradients(compiled, time), gradients(plain, time))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before > 0


def test_one_compilation_is_for_all_lengths_and_batches() -> None:
    network, graphs = deepheart(dropout=0.2), Graphs()
    compile_convolutions(network, CPU, graphs)  # type: ignore[arg-type]
    gradients(network, 50)
    once = graphs.compiled
    for time in (49, 80, 333, 64):
        gradients(network, time)
        network(*batch_of(time, batch=5))
    assert graphs.compiled == once <= 4  # tried, and two of training: the first convolution has no residual
    assert graphs.runs == 1 + 3 * 9


def test_all_forms_of_a_sweep_are_compiled() -> None:
    graphs = Graphs()
    for dropout in (0.1, 0.2, 0.3):
        network = deepheart(dropout=dropout)
        compile_convolutions(network, CPU, graphs)  # type: ignore[arg-type]
        for training in (True, False):
            network.train(training)
            for batch in (1, 3):
                before = graphs.runs
                network(*batch_of(30, batch))
                assert graphs.runs == before + 3
    assert 8 < graphs.compiled <= 64  # PyTorch's limit is 8


def test_a_checkpoint_does_not_know(tmp_path: Path) -> None:
    plain, compiled = deepheart(), deepheart()
    compile_convolutions(compiled, CPU, "eager")
    compiled(*batch_of(20))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert compiled.arguments == plain.arguments
    assert [name for name, _ in compiled.named_modules()] == [name for name, _ in plain.named_modules()]
    torch.save(compiled, tmp_path / "whole.pt")
    again = torch.load(tmp_path / "whole.pt", weights_only=False)
    torch.testing.assert_close(again(*batch_of(20)).score, plain(*batch_of(20)).score)


def test_hooks_see_what_they_see_of_a_network_that_is_not_compiled() -> None:
    plain, compiled, graphs = deepheart(), deepheart(), Graphs()
    compile_convolutions(compiled, CPU, graphs)  # type: ignore[arg-type]
    compiled(*batch_of(20))
    seen: dict[str, list[Tensor]] = {"plain": [], "compiled": []}
    for name, network in {"plain": plain, "compiled": compiled}.items():
        for module in (*network.activations, *network.convolutions, network.dropout):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out.detach()))
        network(*batch_of(20))
    assert len(seen["compiled"]) == 10
    for ours, theirs in zip(seen["compiled"], seen["plain"], strict=True):
        assert torch.equal(ours, theirs)
    before = graphs.runs
    for module in compiled.modules():
        module._forward_hooks.clear()
    compiled(*batch_of(20))
    assert graphs.runs == before + 3  # and is compiled again once they are gone


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", ["copy", "bare copy", "isolated", "mode", "transformed", "traced"])
def test_who_looks_closely_gets_the_plain_network(way: str) -> None:
    network, graphs = deepheart().eval(), Graphs()
    compile_convolutions(network, CPU, graphs)  # type: ignore[arg-type]
    inputs, lengths = batch_of(20)
    before, expected = graphs.runs, deepheart().eval()(inputs, lengths).score
    if way == "copy":
        found = copy.deepcopy(network)(inputs, lengths).score
    elif way == "bare copy":
        found = bare_copy(network)(inputs, lengths).score
    elif way == "isolated":
        with isolated(network) as twin:
            found = twin(inputs.double(), lengths).score.float()
    elif way == "mode":
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counted:
            found = network(inputs, lengths).score
        assert counted.get_total_flops() > 0
    elif way == "transformed":
        weeks, one = inputs.transpose(1, 2), lengths[:1]
        found = torch.func.vmap(lambda week: network._convolve(week[None], one)[0][0])(weeks)
        expected = deepheart().eval()._convolve(weeks, one.expand(len(weeks)))[0]
    else:
        traced = torch.jit.trace(Scores(network), (inputs, lengths), check_trace=False)
        inputs, lengths = batch_of(31)
        found, expected = traced(inputs, lengths), deepheart().eval()(inputs, lengths).score
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert graphs.runs == before


class Mode(torch.overrides.TorchFunctionMode):
    """Looks at each function, and changes none."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        del types
        return function(*arguments, **(options or {}))


class Dispatched(TorchDispatchMode):
    """Looks at each operation, and changes none."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        del types
        return function(*arguments, **(options or {}))


@contextmanager
def own_forward(module: nn.Module) -> Iterator[None]:
    module.forward = lambda inputs: inputs  # type: ignore[method-assign]
    yield
    del module.forward


LOOKS: dict[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
    "function mode": lambda _: Mode(),
    "dispatch mode": lambda _: Dispatched(),
    "random stream": lambda _: stream(1),
    "forward hook": lambda module: module.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda module: module.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    "hook of all modules": lambda _: register_module_forward_hook(lambda *_: None),
    "another forward": own_forward,
    "traced": lambda _: patch.object(torch._C, "_get_tracing_state", lambda: "tracing"),
    "transformed": lambda _: patch.object(torch._C._functorch, "peek_interpreter_stack", lambda: "vmap"),
    "compiled by another": lambda _: patch.object(torch.compiler, "is_compiling", lambda: True),
}


def asked_of(monkeypatch: pytest.MonkeyPatch) -> Compilable:
    """Return a function that says which way it was called, compiled or as it is."""
    monkeypatch.setattr(compiled_file, "_compiled", lambda *_: lambda *_: "compiled")
    function = Compilable(lambda *_: "plain")
    function.backend = "eager"
    return function


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_looks_gets_the_function_as_it_is(look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, module, inputs = asked_of(monkeypatch), nn.Linear(1, 1), torch.zeros(2, 1)
    assert function(inputs, module) == "compiled"
    with LOOKS[look](module):
        assert function(inputs, module) == "plain"
    assert function(inputs, module) == "compiled"


def test_so_do_threads_and_tensors_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    function, module = asked_of(monkeypatch), nn.Linear(1, 1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(function, torch.zeros(1), module).result() == "plain"
    assert function(torch.zeros(1, device="meta"), module) == "plain"
    assert function(3, None, torch.zeros(1)) == "compiled"
    function.backend = None
    assert function(torch.zeros(1)) == "plain"


@pytest.mark.parametrize("threads", [1, 2])
def test_pieces_of_a_batch_train_to_the_same_bits(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "READINGS", 64)
    pieces.use_threads(threads)
    try:
        found = []
        for backend in (None, "eager"):
            network = deepheart(dropout=0.3).train()
            if backend is not None:
                compile_convolutions(network, CPU, backend)
            torch.manual_seed(1)
            score = pieces.score(network, *batch_of(32, batch=6), None)
            score.square().sum().backward()
            found.append([score.detach(), *(each.grad for each in network.parameters())])
        for ours, theirs in zip(*found, strict=True):
            assert torch.equal(ours, theirs)
    finally:
        pieces.use_threads(1)


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(HeartnetError, match=r"HourlyCNN has nothing to compile; .*compile=null"):
        compile_convolutions(HourlyCNN(conv_units=4), CPU)

    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler found\nand more")

    with pytest.raises(HeartnetError, match=r"for cpu on this machine .*no compiler found.*compile=null"):
        compile_convolutions(deepheart(), CPU, broken)  # type: ignore[arg-type]


def test_trying_it_moves_no_random_stream() -> None:
    network = deepheart(dropout=0.5).train()
    before = torch.get_rng_state()
    compile_convolutions(network, CPU, "eager")
    assert torch.equal(torch.get_rng_state(), before)
