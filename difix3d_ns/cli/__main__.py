"""``python -m difix3d_ns.cli``: the command ``difix3d`` where its script is not on the path."""

from difix3d_ns.cli import main

main()
