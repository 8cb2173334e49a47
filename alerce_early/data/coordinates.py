"""Sky positions: ecliptic and galactic coordinates, and matching rows to objects."""

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
    """Return longitude in [0, 360) and latitude in [-90, 90], in degrees, of unit vectors (..., 3)."""
    longitude = np.rad2deg(np.arctan2(vectors[..., 1], vectors[..., 0])) % 360
    return longitude, np.rad2deg(np.arcsin(np.clip(vectors[..., 2], -1, 1)))


def ecliptic_rotation() -> Array:
    """Return the matrix (3, 3) that rotates equatorial to ecliptic unit vectors."""
    c, s = np.cos(OBLIQUITY), np.sin(OBLIQUITY)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def galactic_rotation() -> Array:
    """Return the matrix (3, 3) that rotates equatorial to galactic unit vectors; its rows are the galactic axes."""
    pole = unit_vectors(*GALACTIC_POLE)
    # The celestial pole, seen from the galactic pole, lies at galactic longitude GALACTIC_NODE.
    towards = np.array([0.0, 0.0, 1.0]) - pole[2] * pole
    towards /= np.linalg.norm(towards)
    across = np.cross(pole, towards)
    c, s = np.cos(GALACTIC_NODE), np.sin(GALACTIC_NODE)
    return np.stack([c * towards - s * across, s * towards + c * across, pole])


def rotate(vectors: Array, matrix: Array) -> Array:
    """Apply a matrix (3, 3) to vectors (..., 3); the order of summation does not depend on threads."""
    return np.einsum("ij,...j->...i", matrix, vectors)


def to_ecliptic(ra: Array, dec: Array) -> tuple[Array, Array]:
    """Convert equatorial ra and dec to ecliptic longitude and latitude, all in degrees, J2000."""
    return angles(rotate(unit_vectors(np.deg2rad(ra), np.deg2rad(dec)), ecliptic_rotation()))


def to_galactic(ra: Array, dec: Array) -> tuple[Array, Array]:
    """Convert ra and dec (J2000) to galactic longitude and latitude, all in degrees."""
    return angles(rotate(unit_vectors(np.deg2rad(ra), np.deg2rad(dec)), galactic_rotation()))


def match_objects(ids: np.ndarray, ra: np.ndarray, dec: np.ndarray, radius: float) -> np.ndarray:
    """Identify the object of each row by id and position.

    Surveys sometimes give one source two ids, and some files have no ids. Rows belong to one object if they have the
    same id or are close to each other (friends of friends), so that a chain of such pairs is one object, too.

    Parameters
    ----------
    ids : ndarray
        (N,) str.
    ra, dec : ndarray
        (N,) degrees; values outside the range of angles, such as -999, mark unknown positions.
    radius : float
        Linking length in arcsec.

    Returns
    -------
    ndarray
        (N,) str: the alphabetically first id of the object of each row.
    """
    from scipy.spatial import cKDTree  # slow to import, and prediction does not need it

    names, name = np.unique(ids, return_inverse=True)
    known = (np.abs(ra) <= 360) & (np.abs(dec) <= 90)
    # equal positions are one node of the graph, since a file with the same position in all rows has 10^9 pairs
    vectors = unit_vectors(np.deg2rad(ra[known]), np.deg2rad(dec[known]))
    positions, position = np.unique(vectors, axis=0, return_inverse=True)
    chord = 2 * np.sin(np.deg2rad(radius / 3600) / 2)
    near = len(names) + cKDTree(positions).query_pairs(chord, output_type="ndarray")
    ends = np.concatenate([np.stack([name[known], len(names) + position.ravel()], 1), near]).T
    return names[first_of_component(len(names), len(names) + len(positions), ends)][name]


def first_of_component(n: int, nodes: int, ends: np.ndarray) -> np.ndarray:
    """Find the connected component of each of the first nodes of a graph.

    Parameters
    ----------
    n : int
        Number of nodes to look up.
    nodes : int
        Number of all nodes.
    ends : ndarray
        (2, edges) int64: nodes at both ends of each edge, in [0, `nodes`).

    Returns
    -------
    ndarray
        (n,) int64: the lowest node of the component of each node.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, group = connected_components(coo_array((np.ones(ends.shape[1]), ends), (nodes, nodes)), directed=False)
    _, first, component = np.unique(group[:n], return_index=True, return_inverse=True)
    return first[component]
