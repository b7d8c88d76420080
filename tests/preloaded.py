"""What the process imports that commands are forked from."""

import os

from tests import commands

os.environ["COLUMNS"] = commands.WIDTH
commands.preload()
