"""Repair one picture from Python: python docs/examples/fix_picture.py [RENDER PHOTOGRAPH RESULT WEIGHTS]"""

import sys

from difix3d_ns import FixRequest, PosedImage, load_fixer
from difix3d_ns.io.images import read_picture, write_picture
from difix3d_ns.priors.registry import fixer_of

render, photograph, result, weights = sys.argv[1:5] or ["docs/images/demo.png"] * 2 + ["fixed.png", "embedded"]

fixer = load_fixer(*fixer_of(weights))  # device="cuda" where there is one
fixed = fixer.fix([FixRequest(read_picture(render).image, [PosedImage(read_picture(photograph).image)])])[0]
write_picture(result, fixed.image)
