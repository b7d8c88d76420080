"""Repair a file with the published weights: python docs/examples/06_fix_file.py RENDER PHOTO RESULT WEIGHTS

WEIGHTS is nvidia/difix_ref, which downloads 5 GB, or a folder. Without arguments: what the embedded fixer makes of a
picture without a camera, which is the picture as it is.
"""

import sys

from difix3d_ns import FixRequest, PosedImage, load_fixer, read_picture, write_picture
from difix3d_ns.priors.registry import fixer_of

render, photo, result, weights = sys.argv[1:5] or ["docs/images/demo.png"] * 2 + ["fixed.png", "embedded"]

fixer = load_fixer(*fixer_of(weights))  # device="cuda" where there is one
fixed = fixer.fix([FixRequest(read_picture(render).image, [PosedImage(read_picture(photo).image)])])[0]
write_picture(result, fixed.image)
