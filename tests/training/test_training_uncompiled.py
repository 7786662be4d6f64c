"""Training does not load torch's compiler; a job that compiles finds it as ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import sys, torch
from octopus_desktop.training.uncompiled import leave_compiler_out
leave_compiler_out()
model = torch.nn.Linear(3, 1)
def steps(optimiser, count=3):
    for _ in range(count):
        optimiser.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        optimiser.step()
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BEGIN + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_an_optimiser_trains_without_the_compiler(name: str) -> None:
    out = python(f"""
optimiser = torch.optim.{name}(model.parameters(), lr=0.1)
before = model.weight.detach().clone()
steps(optimiser)
optimiser.load_state_dict(optimiser.state_dict())
steps(optimiser)
assert not torch.equal(before, model.weight) and torch.is_grad_enabled()
print("torch._dynamo" in sys.modules, "sympy" in sys.modules)
""")
    assert out.split() == ["False", "False"]


def test_vmap_of_a_loss_needs_no_symbols() -> None:
    out = python("""
from torch.func import vmap
loss = vmap(lambda x, y: torch.nn.functional.cross_entropy(x, y))
loss(torch.ones(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64))
print("sympy" in sys.modules, end=" ")
try:
    torch._check(False, lambda: "told")
except RuntimeError as error:
    print(error)
""")
    assert out.split() == ["False", "told"]


def test_the_same_bits_as_with_the_compiler_loaded_and_a_compiled_step_works() -> None:
    out = python("""
def trained(compiled):
    torch.manual_seed(1)
    global model
    model = torch.nn.Linear(3, 1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if compiled:
        optimiser.step = torch.compile(optimiser.step, backend="eager")
    steps(optimiser)
    return model.weight.detach().clone()
plain = trained(False)
assert "torch._dynamo" not in sys.modules
print(torch.equal(plain, trained(True)), torch.equal(plain, trained(False)), "torch._dynamo" in sys.modules)
""")
    assert out.split() == ["True", "True", "True"]
