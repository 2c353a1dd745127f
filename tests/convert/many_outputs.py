"""The trained reference network with an output for every task, and images with every target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeres.data.source import open_dataset

BACKGROUND, IGNORED = 30, 255
FOOTWEAR = (5, 7, 9)
GROUPS = {"top": (0, 2, 4, 6), "footwear": FOOTWEAR, "rest": (1, 3, 8)}


def with_outputs(path: Path, *, groups: bool = False) -> onnx.ModelProto:
    """The reference with its features, its class shares, and a class map over the image.

    With groups of classes, also the probability of footwear and those of three groups.
    """
    model = onnx.load(path)
    graph = model.graph
    gemm = next(node for node in graph.node if node.op_type == "Gemm")
    pool = next(node for node in graph.node if node.op_type == "GlobalAveragePool")
    weight = numpy_helper.to_array(next(i for i in graph.initializer if i.name == gemm.input[1]))
    graph.initializer.append(numpy_helper.from_array(weight[:, :, None, None].copy(), "map.weight"))
    graph.node.append(helper.make_node("Conv", [pool.input[0], "map.weight"], ["map"], "map_conv"))
    graph.node.append(helper.make_node("Softmax", [graph.output[0].name], ["shares"], "to_shares"))
    graph.node.append(helper.make_node("Identity", [gemm.input[0]], ["features"], "to_features"))
    ranks = {"features": 2, "shares": 2, "map": 4}
    if groups:
        for name, chosen in {"footwear": [FOOTWEAR], "groups": list(GROUPS.values())}.items():
            sums = np.zeros((10, len(chosen)), np.float32)
            for column, classes in enumerate(chosen):
                sums[list(classes), column] = 1
            graph.initializer.append(numpy_helper.from_array(sums, f"{name}.sums"))
            graph.node.append(
                helper.make_node("MatMul", ["shares", f"{name}.sums"], [name], f"to_{name}")
            )
            ranks[name] = 2
    for name, rank in ranks.items():
        dims = ["N", *[None] * (rank - 1)]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    return model


def write_images(folder: Path, samples: int) -> None:
    """Writes ``images/``, ``table.csv``, ``masks.csv``, ``every.csv`` and ``images.npz``.

    Classes and numbers stand in the first table, masks in the second, everything in the third.
    """
    images = open_dataset("fashion-mnist", split="validation").subset(range(samples))
    (folder / "images").mkdir()
    table, masks = ["path,label,number"], ["path,mask"]
    every = [f"path,label,number,footwear,mask,{','.join(f'groups:{name}' for name in GROUPS)}"]
    pixels = []
    for index in range(samples):
        image, label = images.image(index), int(images.labels[index])
        image.save(folder / "images" / f"{index}.png")
        pixels.append(np.asarray(image))
        shown = pixels[-1] > BACKGROUND
        mask = np.where(shown, label, IGNORED).astype(np.uint8)
        Image.fromarray(mask).save(folder / "images" / f"{index}-mask.png")
        file, held = f"images/{index}.png", f"images/{index}-mask.png"
        table.append(f"{file},{label},{label}.0")
        masks.append(f"{file},{held}")
        member = ",".join(str(int(label in classes)) for classes in GROUPS.values())
        every.append(f"{file},{label},{label}.0,{int(label in FOOTWEAR)},{held},{member}")
    for name, lines in {"table": table, "masks": masks, "every": every}.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    np.savez(folder / "images.npz", images=np.stack(pixels), labels=images.labels)
