"""The ten shapes of the embedded model, as closed outlines in a unit square.

Every outline is a list of contours, each float64 (P, 2) in (x, y) within [-0.5, 0.5], y downwards. The even-odd rule
fills an outline, so that a second contour inside the first is a hole.
"""

import numpy as np

Outline = list[np.ndarray]


def _arc(
    radius: float, start: float, stop: float, centre: tuple[float, float] = (0.0, 0.0), points: int = 48
) -> np.ndarray:
    angle = np.linspace(start, stop, points)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], axis=1)


def _circle() -> Outline:
    return [_arc(0.5, 0, 2 * np.pi)]


def _ring() -> Outline:
    return [_arc(0.5, 0, 2 * np.pi), _arc(0.28, 0, 2 * np.pi)]


def _square() -> Outline:
    return [np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])]


def _triangle() -> Outline:
    return [_arc(0.5, -np.pi / 2, 1.5 * np.pi, points=4)[:3]]


def _star() -> Outline:
    corners = _arc(0.5, -np.pi / 2, 1.5 * np.pi, points=11)[:10]
    corners[1::2] *= 0.4
    return [corners]


def _cross() -> Outline:
    arm = 0.15
    quarter = np.array([(-arm, -0.5), (arm, -0.5), (arm, -arm)])
    turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
    return [np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])]


def _heart() -> Outline:
    t = np.linspace(0, 2 * np.pi, 64)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([x / 34, (-y - 2.5) / 34], axis=1)]


def _crescent() -> Outline:
    outer = _arc(0.5, 0.25 * np.pi, 1.75 * np.pi)
    reach = outer[0, 0] - 0.16
    inner_radius = float(np.hypot(reach, outer[0, 1]))
    edge = float(np.arctan2(outer[0, 1], reach))
    inner = _arc(inner_radius, 2 * np.pi - edge, edge, centre=(0.16, 0.0))
    return [np.concatenate([outer, inner])]


def _arrow() -> Outline:
    return [
        np.array(
            [
                (-0.5, -0.11),
                (0.05, -0.11),
                (0.05, -0.35),
                (0.5, 0.0),
                (0.05, 0.35),
                (0.05, 0.11),
                (-0.5, 0.11),
            ]
        )
    ]


def _spiral() -> Outline:
    angle = np.linspace(0, 4.2 * np.pi, 120)
    middle = 0.06 + 0.38 * angle / angle[-1]
    half_width = 0.055
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [
        np.concatenate(
            [
                direction * (middle + half_width)[:, None],
                (direction * (middle - half_width)[:, None])[::-1],
            ]
        )
    ]


OUTLINES: dict[str, Outline] = {
    "circle": _circle(),
    "ring": _ring(),
    "square": _square(),
    "triangle": _triangle(),
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
    "crescent": _crescent(),
    "arrow": _arrow(),
    "spiral": _spiral(),
}
LABELS: list[str] = list(OUTLINES)
