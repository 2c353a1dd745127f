"""The page's charts of single layers: noise of weights and outputs, and sensitivity."""

from __future__ import annotations

from collections.abc import Sequence

from edgeres.report.page_layers import LayerRow
from edgeres.report.svg import altair, data, two_widths

_MOST_LAYERS = 15
# Names differ at their ends. The whole one stays the key: two may end alike.
_END_OF_NAME = "length(datum.label) > 26 ? '…' + slice(datum.label, -25) : datum.label"
_LAYERS = {"labelExpr": _END_OF_NAME, "labelFontSize": 11, "labelLimit": 170, "labelOverlap": False}


def weight_noise(layers: Sequence[LayerRow]) -> str | None:
    """SQNR of each layer's weights, worst first; SVG."""
    alt = altair()
    rows = [
        {"layer": layer.node, "weight_sqnr_db": layer.weight_sqnr_db}
        for layer in sorted(layers, key=lambda layer: layer.weight_sqnr_db or 0.0)
        if layer.weight_sqnr_db is not None
    ]
    if not rows:
        return None
    chart = alt.Chart(data(rows[:_MOST_LAYERS]))
    return two_widths(
        chart.mark_bar(height=11, color="var(--c1)")
        .encode(
            alt.X("weight_sqnr_db:Q", title="SQNR of the weights, dB (right is better)"),
            alt.Y("layer:N", sort=None, title=None).axis(
                labelExpr=_END_OF_NAME, labelFontSize=11, labelOverlap=False
            ),
        )
        .properties(height=alt.Step(17))
    )


def layer_sensitivity(layers: Sequence[LayerRow]) -> str | None:
    """Share of the logits' noise that each layer brings by itself, most sensitive first; SVG."""
    alt = altair()
    rows = [
        {"layer": layer.node, "noise": 100 * layer.noise_share}
        for layer in sorted(layers, key=lambda layer: -(layer.noise_share or 0.0))
        if layer.noise_share is not None
    ]
    if not rows:
        return None
    return two_widths(
        alt.Chart(data(rows[:_MOST_LAYERS]))
        .mark_bar(height=11, color="var(--c2)")
        .encode(
            alt.X("noise:Q", title="% of the noise (left is better)"),
            alt.Y("layer:N", sort=None, title=None).axis(
                labelExpr=_END_OF_NAME, labelFontSize=11, labelOverlap=False
            ),
        )
        .properties(height=alt.Step(17))
    )


def layer_noise(layers: Sequence[LayerRow]) -> str | None:
    """SQNR of each layer's output in the engine, in the order of the network; SVG."""
    alt = altair()
    measured = [layer for layer in layers if layer.sqnr_db is not None]
    kinds = ("all layers up to here", "this layer alone")
    rows = [
        {"place": place, "layer": layer.node, "kind": kind, "db": sqnr_db}
        for number, kind in enumerate(kinds)
        for place, layer in enumerate(measured, start=1)
        if (sqnr_db := (layer.sqnr_db, layer.own_sqnr_db)[number]) is not None
    ]
    if not rows:
        return None
    chart = alt.Chart(data(rows)).mark_line(strokeWidth=2, point={"filled": True, "size": 45})
    return two_widths(
        chart.encode(
            alt.X("place:Q", title="layer, from the image to the logits").axis(tickMinStep=1),
            alt.Y("db:Q", title="SQNR, dB (up is better)").scale(zero=False),
            alt.Color("kind:N", title=None)
            .scale(domain=list(kinds), range=["var(--c0)", "var(--c1)"])
            .legend(orient="top", labelLimit=300),
            detail="kind:N",
            tooltip=[alt.Tooltip("layer:N"), alt.Tooltip("db:Q", format=".1f")],
        ).properties(height=170)
    )
