"""Where the report disagrees with itself or with mathematics: the numbers that show it, from its own figures and from closed forms.

No run enters here.
"""

import numpy as np
import torch

from ncbook import analysis, metrics, simplex
from ncbook.pages import curve_name, listing, number
from ncbook.report.epochwise import REPORT_SPIKE
from ncbook.report.modelwise import hidden_points

CLASSES = 10


def offset_nc3(ratio: float) -> tuple[float, float]:
    """NC3 of a perfect collapse whose class means share an offset of `ratio` times their centred length: the report's and the standard."""
    directions = torch.from_numpy(simplex.simplex_cosines(CLASSES))
    lengths = directions.norm(dim=1, keepdim=True)
    centred = torch.cat([directions / lengths, torch.zeros(CLASSES, 1, dtype=torch.float64)], 1)
    offset = torch.zeros(CLASSES + 1, dtype=torch.float64)
    offset[-1] = ratio
    labels = torch.arange(CLASSES)
    return tuple(float(form(centred + offset, labels, centred)) for form in (metrics.nc3_uncentred, metrics.nc3))  # type: ignore[return-value]


def texts() -> dict[str, str]:
    """The numbers, written the Italian way, by name."""
    exp1, exp2, exp3, cka = (*map(analysis.report_points, ("exp1", "exp2", "exp3")), analysis.report_cka())
    errors, nc2 = exp1[exp1["metric"] == "test_error"], exp1[exp1["metric"] == analysis.REPORT_METRICS["nc2"]]
    resnet = errors[errors["model"] == "resnet1d"].pivot(index="width", columns="optimizer", values="value")
    curves = analysis.peaks(errors.rename(columns={"value": "test_error"}).assign(seed=0))
    ((top, hidden),) = ((peak, one) for peak in curves.to_dict("records") for one in hidden_points(errors, peak).to_dict("records"))
    tops = {row.optimizer: row.width for row in curves.itertuples() if row.model == "resnet1d"}
    widest = nc2[nc2["width"] == nc2["width"].max()]["value"]
    spike = exp2[exp2["epoch"].between(*REPORT_SPIKE)].groupby("width")["value"]
    dims = exp3[exp3["metric"] == analysis.REPORT_METRICS["nc2"]].set_index("feature_dim")["value"]
    matrix, drift = np.array(cka["cross_width"]["cka"]), cka["drift"]
    deep = dict(zip(drift["epochs"], drift["L2"]))
    lowest = min(deep, key=deep.get)  # type: ignore[arg-type]
    offsets = (1, 2, 5)
    return {
        "same_layer_difference": number(float(np.abs(matrix[:, 2] - matrix[:, 3]).max()), 2),
        "nc3_offsets": listing(offsets),
        "nc3_uncentred_values": "; ".join(number(offset_nc3(ratio)[0], 2) for ratio in offsets),
        "nc3_standard_values": "; ".join(number(offset_nc3(ratio)[1], 2) for ratio in offsets),
        "floors": "; ".join(number(metrics.gram_floor(CLASSES, dim), 2) for dim in (2, 3, 5, 8)),
        "report_below": "; ".join(number(dims[dim], 2) for dim in (2, 3, 5, 8)),
        "report_beyond": "; ".join(number(dims[dim], 2) for dim in (9, 10, 12, 16)),
        "narrow_floor": number(metrics.gram_floor(CLASSES, 2), 2),
        "nc2_rises": str(
            sum(int((curve.sort_values("width")["value"].dropna().diff() > 0).sum()) for _, curve in nc2.groupby(analysis.CURVE))
        ),
        "nc2_steps": str(sum(curve["value"].notna().sum() - 1 for _, curve in nc2.groupby(analysis.CURVE))),
        "report_widest_nc2": f"{number(widest.min())}–{number(widest.max())}",
        "report_peak_width": listing(sorted(set(tops.values()))),
        "report_at_peak": "; ".join(number(resnet.loc[width, optimizer]) for optimizer, width in tops.items()),
        "report_at_12": "; ".join(number(resnet.loc[12, optimizer]) for optimizer in tops),
        "hidden_curve": curve_name(top["model"], top["optimizer"]),
        "hidden_top": number(top["parameters"], 0),
        "hidden_point": number(hidden["parameters"], 0),
        "spike_large": number(spike.max()[64], 2),
        "best_critical": number(spike.min()[12], 2),
        "noise_nc1": number(simplex.collapsed_nc1_closed(0.18, CLASSES), 2),
        "drift_end": number(max(deep), 0),
        "drift_lowest": f"{number(deep[lowest])} all’epoca {number(lowest, 0)}",
        "drift_last": number(deep[max(deep)]),
    }
