"""Positions on the sky: ecliptic and galactic coordinates, and which rows are of one object."""

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


def match_objects(ids: np.ndarray, ra: np.ndarray, dec: np.ndarray, radius: float) -> np.ndarray:
    """Return the object of each row, (N,) str: the first of all ids that share a place on the sky.

    A survey may name one source twice, and a file may name none. ids: (N,) str; ra, dec: (N,) degrees, or anything
    that is no angle where they are unknown, as -999; radius: arcsec within which two places are one. Places and names
    chain: where a is near b, b near c, and c has the name of d, all four are one object.
    """
    from scipy.spatial import cKDTree  # what astropy's search_around_sky searches; who only predicts can spare it

    names, name = np.unique(ids, return_inverse=True)
    known = (np.abs(ra) <= 360) & (np.abs(dec) <= 90)
    # equal places are one node of the graph: a file that fills in one position for all has 10^9 pairs of rows
    vectors = unit_vectors(np.deg2rad(ra[known]), np.deg2rad(dec[known]))
    places, place = np.unique(vectors, axis=0, return_inverse=True)
    chord = 2 * np.sin(np.deg2rad(radius / 3600) / 2)
    near = len(names) + cKDTree(places).query_pairs(chord, output_type="ndarray")
    ends = np.concatenate([np.stack([name[known], len(names) + place.ravel()], 1), near]).T
    return names[first_of_component(len(names), len(names) + len(places), ends)][name]


def first_of_component(n: int, nodes: int, ends: np.ndarray) -> np.ndarray:
    """Return, of the first n nodes of a graph, the first that each is connected with, (n,) int64.

    ends: (2, edges) int64 below `nodes`, the two ends of each edge.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, group = connected_components(coo_array((np.ones(ends.shape[1]), ends), (nodes, nodes)), directed=False)
    _, first, component = np.unique(group[:n], return_index=True, return_inverse=True)
    return first[component]
