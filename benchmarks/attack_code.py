"""Tries of `attack.py` on code of the user's: sets, metrics and networks that Python makes.

Such code may do anything. What it raises, returns or lacks is one line, and what ends the process
from inside must not look like a run that passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attack_content import NORMAL, OUT
from attack_targets import pictures
from attack_try import Try

JUDGE = ("validate", "engine.onnx", "--baseline", "engine.onnx", "--max-drop", "100")
ENDS = {
    "raises": "raise ValueError('odd\\x1b[2J\\u202e')",
    "raises without a word": "raise RuntimeError",
    "raises many lines": "raise ValueError('a\\nb\\nc' * 9999)",
    "exits with 0": "import sys; sys.exit(0)",
    "exits with a text": "import sys; sys.exit('bye')",
    "quits": "quit()",
    "recurses": "f = lambda: f(); f()",
    "runs out of memory": "raise MemoryError",
    "stops an iteration": "raise StopIteration",
    "raises an error that raises": (
        "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})"),
}  # fmt: skip
"""How code ends that should give something; each is one line."""
GOOD_SET = """\
import numpy as np
rng = np.random.default_rng(1)
images = rng.integers(0, 256, (60, 28, 28), np.uint8)
right = RIGHT
class Set:
    def __len__(self): return 60
    def __getitem__(self, i): return images[i], right[int(i)]
"""


def python_sets(folder: Path) -> Iterator[Try]:
    """Objects with items that raise, change, end, or are no items."""
    items = {
        "a good one": ("return images[i], right[int(i)]", (0,)),
        "nothing": ("return None", (3,)),
        "a text": ("return 'x'", (3,)),
        "an empty pair": ("return ()", (3,)),
        "three things": ("return images[i], 1, 2", (3,)),
        "an image of four axes": ("return images[None, None], 1", (3,)),
        "an image of 0 pixels": ("return images[i][:0], 1", (3,)),
        "floats that are NaN": ("return np.full((1, 28, 28), np.nan), 1", (3,)),
        "another size": ("return np.zeros((1, 9, 9), np.float32) + i, right[int(i)]", (3,)),
        "a target that is NaN": ("return images[i], float('nan')", (3,)),
        "a target that is a text": ("return images[i], 'cat'", (3,)),
        "classes beyond": ("return images[i], int(i) + 100", (3,)),
        "other heads each": ("return images[i], {str(i): 1}", (3,)),
        "something else each time": (
            "return rng.integers(0, 256, (28, 28), np.uint8), right[int(i)]", (3,)),
        "a target that acts": ("return images[i], {'\\x1b[2J\\u202e': right[int(i)]}", (0, 3)),
    }  # fmt: skip
    items |= {name: (end, (3,)) for name, end in ENDS.items()}
    sources = {f"an item: {name}": (_item(body), codes) for name, (body, codes) in items.items()}
    whole = {
        "no length": ("class Set:\n    def __getitem__(self, i): return 1\n", (3,)),
        "a length below 0": (GOOD_SET.replace("return 60", "return -1"), (3,)),
        "a length of 10^30": (GOOD_SET.replace("return 60", "return 10**30"), (3,)),
        "a length of text": (GOOD_SET.replace("return 60", "return 'x'"), (3,)),
        "no item": (GOOD_SET.replace("return 60", "return 0"), (3,)),
        "too few items": (GOOD_SET.replace("return 60", "return 99"), (3,)),
        "no factory": (GOOD_SET.replace("class Set", "class Other"), (2,)),
        "a factory that wants more": (GOOD_SET + "def Set(a, b): pass\n", (3,)),
        "a factory of nothing": ("Set = lambda: None\n", (3,)),
        "no callable": ("Set = 3\n", (2,)),
        "no Python": ("def (:\n", (2,)),
        "an import that is missing": ("import no_such_package\n", (2,)),
        "labels that lie": (GOOD_SET + "    labels = [99] * 60\n", (3,)),
        "class names of numbers": (GOOD_SET + "    class_names = [1, 2]\n", (0, 3)),
        "a fingerprint that raises": (
            GOOD_SET + "    def fingerprint(self): raise ValueError\n", (3,)),
        "NUL": ("x = '\0'\n", (2,)),
    }  # fmt: skip
    whole |= {f"a file that {name}": (f"def f():\n {end}\nf()\n", (2,))
              for name, end in ENDS.items()}  # fmt: skip
    whole |= {f"a factory that {name}": (f"def Set():\n {end}\n", (3,))
              for name, end in ENDS.items()}  # fmt: skip
    _, right = pictures(folder)
    for number, (name, (text, codes)) in enumerate((sources | whole).items()):
        path = folder / f"set_{number}.py"
        path.write_text(text.replace("RIGHT", repr(right)))
        data = ("--data", f"python:{path.name}:Set", *NORMAL)
        yield Try(f"python: {name}", (*JUDGE, *data), codes)
    for place in ("nothing.py:Set", "fifo:Set", "folder:Set", "/dev/zero:Set", "Set", "", ":"):
        yield Try(f"python: {place!r}", (*JUDGE, "--data", f"python:{place}"), (2, 3))


def _item(body: str) -> str:
    """A set whose items do something else."""
    head = GOOD_SET.rpartition("    def __getitem__")[0]
    return f"{head}    def __getitem__(self, i):\n        {body}\n"


def metrics(folder: Path) -> Iterator[Try]:
    """Metrics that raise, end, change what they get, or give no scores."""
    bodies = {
        "a good one": ("return [1.0 + v[0] * 0 for v in outputs['scores']]", (0,)),
        "nothing": ("return None", (3,)),
        "one number": ("return 1.0", (3,)),
        "too few": ("return [1.0]", (3,)),
        "texts": ("return ['x'] * len(outputs['scores'])", (3,)),
        "NaN": ("return [float('nan')] * len(outputs['scores'])", (3,)),
        "Inf": ("return [float('inf')] * len(outputs['scores'])", (1, 3)),
        "complex numbers": ("return [1j] * len(outputs['scores'])", (3,)),
        "an output that is not there": ("return outputs['no'][:, 0]", (3,)),
        "what chance gives": (
            "import random; return [random.random() for v in outputs['scores']]", (0, 1, 3)),
        "a change of the outputs": (
            "outputs['scores'][:] = 0; return outputs['scores'][:, 0]", (0, 1, 3)),
        "no outputs any more": ("outputs.clear(); return []", (3,)),
    } | {name: (end, (3,)) for name, end in ENDS.items()}  # fmt: skip
    for number, (name, (body, codes)) in enumerate(bodies.items()):
        path = folder / f"metric_{number}.py"
        path.write_text(f"def score(outputs, targets):\n {body}\n")
        task = ("--task", f"custom:{path.name}:score")
        yield Try(f"a metric: {name}", (*JUDGE, "--data", "npz:images.npz", *NORMAL, *task), codes)
    for place in ("nothing.py:score", "fifo:score", "folder:score", "metric_0.py:no",
                  "metric_0.py", "/dev/zero:score"):  # fmt: skip
        words = (*JUDGE, "--data", "npz:images.npz", *NORMAL, "--task", f"custom:{place}")
        yield Try(f"a metric: {place!r}", words, (2,))


def modules(folder: Path) -> Iterator[Try]:
    """Code that should make a network, and makes something else, ends or goes on for ever."""
    net = (
        "import torch\nclass Net(torch.nn.Module):\n"
        " def __init__(self):\n  super().__init__()\n"
        "  self.conv = torch.nn.Conv2d(1, 8, 3)\n  self.fc = torch.nn.Linear(8, 10)\n"
        " def forward(self, x):\n  {body}\n"
        "torch.manual_seed(0)\ndef build(): return Net().eval()\n"
    )
    right = "return self.fc(self.conv(x).relu().mean((2, 3)))"
    bodies = {
        "a good one": (right, (0, 1)),
        "nothing": ("return None", (3,)),
        "a number": ("return 3", (3,)),
        "its input": ("return x", (3,)),
        "NaN": ("return self.fc(self.conv(x).mean((2, 3))) * float('nan')", (1, 3)),
        "what chance gives": (
            "return self.fc(torch.nn.functional.dropout(self.conv(x).mean((2, 3)), 0.5))", (1, 3)),
        "something of the batch": (
            "y = self.fc(self.conv(x).relu().mean((2, 3))); return y - y.mean(0)", (1, 3)),
        "a branch on a value": (
            "y = self.conv(x).mean((2, 3)); return self.fc(y if y.sum() > 0 else -y)", (1, 3)),
        "an empty dictionary": ("return {{}}", (3,)),
        "integers": ("return self.fc(self.conv(x).mean((2, 3))).int()", (1, 3)),
    } | {name: (end, (3,)) for name, end in ENDS.items()}  # fmt: skip
    sources = {f"forward: {name}": (net.format(body=body).replace("{{}}", "{}"), codes)
               for name, (body, codes) in bodies.items()}  # fmt: skip
    sources |= {f"a file that {name}": (f"def f():\n {end}\nf()\n", (2, 3))
                for name, end in ENDS.items()}  # fmt: skip
    sources |= {f"build that {name}": (f"def build():\n {end}\n", (2, 3))
                for name, end in ENDS.items()}  # fmt: skip
    sources |= {
        "no function": ("x = 1\n", (2, 3)),
        "arguments": ("def build(a): pass\n", (2, 3)),
        "a class": ("import torch\ndef build(): return torch.nn.Linear\n", (3,)),
        "weights alone": ("def build(): return {}\n", (3,)),
        "a child that ends": ("def build():\n import os; os._exit(0)\n", (3, 5)),
        "a child that is killed": ("def build():\n import os; os.kill(os.getpid(), 9)\n", (3, 5)),
        "a child that crashes": ("def build():\n import ctypes; ctypes.string_at(0)\n", (3, 5)),
        "floods of text": (
            "import sys\nfor n in range(20000): print('\\x1b[2J' * 50, file=sys.stderr)\n", (3,)),
        "standard input": ("def build(): return input()\n", (3,)),
        "no Python": ("def (:\n", (3,)),
    }  # fmt: skip
    for number, (name, (text, codes)) in enumerate(sources.items()):
        path = folder / f"net_{number}.py"
        path.write_text(text)
        words = ("convert", "--model", f"{path.name}:build", "--data", "npz:images.npz", *NORMAL,
                 "--target", "onnxruntime", "--untrained", "--input-size", "28,28")  # fmt: skip
        yield Try(f"a module: {name}", (*words, *OUT), codes, 180)
    trusted = "model: {source: net_0.py:build}\ndata: {validation: 'npz:images.npz'}\n"
    (folder / "trusts.yaml").write_text(trusted)
    yield Try("a module in a recipe that nobody trusts", ("convert", "trusts.yaml", *OUT), (2,))
    for place in ("nothing.py:build", "fifo.py:build", "folder:build", "net_0.py:", "net_0.py"):
        given = ("convert", "--model", place, "--data", "npz:images.npz", *NORMAL, *OUT)
        yield Try(f"a module: {place!r}", given, (2, 3))
