"""Alert packets of ZTF and Rubin, from files, archives and messages."""
