"""HTML pages: one about a training (``write_report``), and the parts it is made of, for others.

from difix3d_ns.evaluation.report import Section, gallery, page, picture, results_table, slider

views = [slider({"Plain": picture(a), "Fixed": picture(b)}, "frame_00001.jpg") for a, b in pictures]
html = page("Demo", [Section("Views", [gallery(views)]), Section("Results", [results_table(results)])])
"""

from difix3d_ns.evaluation.report.chart import Curve, chart
from difix3d_ns.evaluation.report.page_pictures import Picture, error_map, long_side_for, picture
from difix3d_ns.evaluation.report.parts import (
    Cell,
    Figure,
    Section,
    facts,
    fold,
    gallery,
    grid,
    page,
    results_table,
    slider,
    table,
)
from difix3d_ns.evaluation.report.report import write_report

__all__ = [
    "Cell",
    "Curve",
    "Figure",
    "Picture",
    "Section",
    "chart",
    "error_map",
    "facts",
    "fold",
    "gallery",
    "grid",
    "long_side_for",
    "page",
    "picture",
    "results_table",
    "slider",
    "table",
    "write_report",
]
