"""Links from an alert to broker pages (by object name) and catalogues (by position)."""

import math
import re
from typing import NamedTuple


class Site(NamedTuple):
    """A web site with a page about each object.

    Attributes
    ----------
    name : str
        Text of the link.
    url : str
        Address with the placeholder ``{id}``, or with ``{ra}`` and ``{dec}`` in degrees.
    pattern : str
        Regular expression, valid in Python and JavaScript, that the whole id must match; "" for pages by position.
    """

    name: str
    url: str
    pattern: str = ""


ZTF, RUBIN = r"ZTF\d{2}[a-z]{7}", r"\d{18,19}"  # Rubin's diaObjectId; an ssObjectId has 17 digits
SITES = (
    Site("ALeRCE", "https://alerce.online/object/{id}", ZTF),
    Site("Fink", "https://ztf.fink-portal.org/{id}", ZTF),
    Site("Lasair", "https://lasair-ztf.lsst.ac.uk/objects/{id}/", ZTF),
    Site("ALeRCE", "https://lsst.alerce.online/object/{id}?survey=lsst", RUBIN),
    Site("Fink", "https://lsst.fink-portal.org/{id}", RUBIN),
    Site("Lasair", "https://lasair.lsst.ac.uk/objects/{id}/", RUBIN),
    Site("TNS", "https://www.wis-tns.org/search?ra={ra}&decl={dec}&radius=5&coords_unit=arcsec"),
    Site("SIMBAD", "https://simbad.cds.unistra.fr/simbad/sim-coo?Coord={ra}%20{dec}&Radius=5&Radius.unit=arcsec"),
    Site(
        "Legacy Survey", "https://www.legacysurvey.org/viewer?ra={ra}&dec={dec}&layer=ls-dr10&zoom=16&mark={ra},{dec}"
    ),
)


def find(object_id: str, ra: float = math.nan, dec: float = math.nan) -> dict[str, str]:
    """Find the pages about an object.

    Parameters
    ----------
    object_id : str
        ZTF objectId or Rubin diaObjectId; brokers have no page for other names.
    ra, dec : float
        Position in degrees; pages by position are omitted if it is NaN.

    Returns
    -------
    dict of str to str
        Address by the name of the site.
    """
    known, place = math.isfinite(ra) and math.isfinite(dec), {"ra": f"{ra:.6f}", "dec": f"{dec:.6f}"}
    return {
        site.name: site.url.format(id=object_id, **place)
        for site in SITES
        if (re.fullmatch(site.pattern, object_id, re.ASCII) if site.pattern else known)
    }
