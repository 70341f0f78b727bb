"""A picture in tiles: where they lie, how they are cut, and how their answers become one picture again.

Tiles of one picture have one size, so that they run in batches, and overlap by twice the halo. Their origins
and sides are multiples of the model's windows, so windows lie where they lie in the whole picture. Answers
are blended by linear ramps over the overlap, or cropped at its middle. Numpy only; the engine is a callable.
"""

from edgetx.tiling.join import Emit, Feed, Run, cut, restore
from edgetx.tiling.plan import SEAM, Axis, Plan, Sides, best

__all__ = ["SEAM", "Axis", "Emit", "Feed", "Plan", "Run", "Sides", "best", "cut", "restore"]
