"""Ecliptic and galactic coordinates of positions on the sky, as the metadata columns hold them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

OBLIQUITY = np.deg2rad(23.4393)  # J2000
GALACTIC_POLE = np.deg2rad([192.85948, 27.12825])  # ra, dec of the north galactic pole, J2000
GALACTIC_NODE = np.deg2rad(122.93192)  # galactic longitude of the north celestial pole


def unit_vectors(longitude: Array, latitude: Array) -> Array:
    """Return unit vectors (..., 3) of angles in radians."""
    c = np.cos(latitude)
    return np.stack([c * np.cos(longitude), c * np.sin(longitude), np.sin(latitude)], axis=-1)


def angles(vectors: Array) -> tuple[Array, Array]:
    """Longitude in [0, 360) and latitude in [-90, 90], both in degrees, of unit vectors (..., 3)."""
    longitude = np.rad2deg(np.arctan2(vectors[..., 1], vectors[..., 0])) % 360
    return longitude, np.rad2deg(np.arcsin(np.clip(vectors[..., 2], -1, 1)))


def ecliptic_rotation() -> Array:
    """(3, 3) matrix that turns equatorial unit vectors into ecliptic ones."""
    c, s = np.cos(OBLIQUITY), np.sin(OBLIQUITY)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def galactic_rotation() -> Array:
    """(3, 3) matrix that turns equatorial unit vectors into galactic ones: rows are the galactic axes."""
    pole = unit_vectors(*GALACTIC_POLE)
    # The celestial pole, seen from the galactic pole, lies at galactic longitude GALACTIC_NODE.
    towards = np.array([0.0, 0.0, 1.0]) - pole[2] * pole
    towards /= np.linalg.norm(towards)
    across = np.cross(pole, towards)
    c, s = np.cos(GALACTIC_NODE), np.sin(GALACTIC_NODE)
    return np.stack([c * towards - s * across, s * towards + c * across, pole])


def rotate(vectors: Array, matrix: Array) -> Array:
    """matrix (3, 3) applied to vectors (..., 3), in an order of sums that does not depend on threads."""
    return np.einsum("ij,...j->...i", matrix, vectors)


def to_ecliptic(ra: Array, dec: Array) -> tuple[Array, Array]:
    """Ecliptic longitude and latitude (degrees, J2000) of ra, dec in degrees."""
    return angles(rotate(unit_vectors(np.deg2rad(ra), np.deg2rad(dec)), ecliptic_rotation()))


def to_galactic(ra: Array, dec: Array) -> tuple[Array, Array]:
    """Galactic longitude and latitude (degrees) of ra, dec (degrees, J2000)."""
    return angles(rotate(unit_vectors(np.deg2rad(ra), np.deg2rad(dec)), galactic_rotation()))
