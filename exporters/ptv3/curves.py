"""The order of grid cells along Morton's (z-order) and Hilbert's curve, in int64 arithmetic.

Semantics read in `serialization/` of the authors' code: coordinates are from 0 to 2^16 - 1; `-trans` swaps
the first two axes; Hilbert's curve is Skilling's ("Programming the Hilbert curve", 2004) in a cube whose side
is the smallest power of two that holds all cells of the batch.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from edgetx.exporters._sets import take

BITS = 16
"""Of a coordinate, at most."""

ORDERS = ("z", "z-trans", "hilbert", "hilbert-trans")


def codes(cells: Tensor, order: str) -> Tensor:
    """`[T]` int64 below 2^48: where each of `cells`, `[T, 3]`, lies along the curve `order`."""
    cells = cells.long()
    if order.endswith("-trans"):
        cells = cells[:, [1, 0, 2]]
    return _hilbert(cells) if order.startswith("hilbert") else _z_order(cells)


def _z_order(cells: Tensor) -> Tensor:
    powers = torch.tensor([8**bit for bit in reversed(range(BITS))], device=cells.device)
    return (_octants(cells) * powers).sum(1)


def _hilbert(cells: Tensor) -> Tensor:
    octants = _octants(cells)
    # Levels above the cube of the batch are left out: each of them would turn the curve.
    inside = (cells.unsqueeze(2) >= _powers(cells)).long().sum((0, 1)) > 0
    digits, states = (torch.tensor(table, device=cells.device) for table in _machine())
    code = torch.zeros_like(octants[:, 0])
    state = code
    for level in range(BITS):
        entry = 8 * state + octants[:, level]
        code = 8 * code + take(digits, entry)
        state = torch.where(inside[level], take(states, entry), state)
    return code


def _octants(cells: Tensor) -> Tensor:
    """`[T, BITS]`: the bits of x, y and z as a number from 0 to 7, highest level first."""
    x, y, z = ((cells.unsqueeze(2) & _powers(cells)) > 0).long().unbind(1)
    return 4 * x + 2 * y + z


def _powers(cells: Tensor) -> Tensor:
    return torch.tensor([1 << bit for bit in reversed(range(BITS))], device=cells.device)


@cache
def _machine() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Skilling's algorithm as a finite automaton: at `8·state + octant`, the octal digit and the next state.

    Per bit he negates the first axis, or exchanges it with another, in all bits below; what has gathered is a
    permutation of the axes with signs. His Gray code is undone by the parity of all bits so far, the rest of
    the state. State 0 is the start.
    """
    start = ((0, 1, 2), (0, 0, 0), 0)
    known, digits, states = [start], [], []
    for axes, flips, parity in known:  # grows while it is read
        for octant in range(8):
            raw = (octant >> 2, octant >> 1 & 1, octant & 1)
            bits = [raw[axis] ^ flip for axis, flip in zip(axes, flips, strict=True)]
            new_axes, new_flips, new_parity, digit = list(axes), list(flips), parity, 0
            for dim, bit in enumerate(bits):
                new_parity ^= bit
                digit = 2 * digit + new_parity
                if bit:
                    new_flips[0] ^= 1
                else:
                    new_axes[0], new_axes[dim] = new_axes[dim], new_axes[0]
                    new_flips[0], new_flips[dim] = new_flips[dim], new_flips[0]
            state = (
                (new_axes[0], new_axes[1], new_axes[2]),
                (new_flips[0], new_flips[1], new_flips[2]),
                new_parity,
            )
            if state not in known:
                known.append(state)
            digits.append(digit)
            states.append(known.index(state))
    return tuple(digits), tuple(states)
