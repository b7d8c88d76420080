"""HTML pages: one about a training (``write_report``), and the parts it is made of, for others.

from difix3d_ns.evaluation.report import Section, gallery, page, picture, results_table, slider

views = [slider({"Plain": picture(a), "Fixed": picture(b)}, "frame_00001.jpg") for a, b in pictures]
html = page("Demo", [Section("Views", [gallery(views)]), Section("Results", [results_table(results)])])
"""

from difix3d_ns.evaluation.curves import Curve as Curve
from difix3d_ns.evaluation.report.chart import chart as chart
from difix3d_ns.evaluation.report.page_pictures import error_map as error_map
from difix3d_ns.evaluation.report.page_pictures import long_side_for as long_side_for
from difix3d_ns.evaluation.report.page_pictures import picture as picture
from difix3d_ns.evaluation.report.parts import Figure as Figure
from difix3d_ns.evaluation.report.parts import Section as Section
from difix3d_ns.evaluation.report.parts import facts as facts
from difix3d_ns.evaluation.report.parts import fold as fold
from difix3d_ns.evaluation.report.parts import gallery as gallery
from difix3d_ns.evaluation.report.parts import grid as grid
from difix3d_ns.evaluation.report.parts import page as page
from difix3d_ns.evaluation.report.parts import results_table as results_table
from difix3d_ns.evaluation.report.parts import slider as slider
from difix3d_ns.evaluation.report.parts import table as table
from difix3d_ns.evaluation.report.report import write_report as write_report
