"""Readers of export formats, one file each; every one ends in a readings table (`heartnet.readings`)."""
