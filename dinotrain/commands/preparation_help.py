"""The text of `prepare --help`; fast, since it imports nothing heavy."""

from __future__ import annotations

KEYS = (
    ("out=DIR", "folder of the shards; the same command again goes on where it was stopped"),
    ("shard_size=1GB", "most bytes of a shard: 500MB, 2GiB, a number of bytes"),
    ("resize_short=PIXELS", "shrink larger images to this shorter side, as JPEG; null keeps all as they are"),
    ("quality=90", "of these JPEG files, 1 to 100 (4:2:0)"),
    ("workers=N", "processes; null for one per core"),
    ("shuffle=true", "mix the images, so that no shard holds a single class; seed=N for another order"),
    ("duplicates=keep", "keep; exact drops files with the same bytes; near also those that look the same"),
    ("near_distance=4", "bits of 64 in which the perceptual hashes of near duplicates may differ"),
    ("verify=true", "decode every image and leave out the broken ones; false looks at the headers alone"),
    ("max_broken=1.0", "share of broken images above which to give up"),
    ("labels=true", "write class numbers, where there are any"),
    ("split=train", "which part of a set that has two: train, test"),
    ("limit=N", "take only N images: the first in the order that shuffle gives"),
)


def help_text() -> str:
    """Usage and keys."""
    keys = "\n".join(f"  {key:<22}{text}" for key, text in KEYS)
    return (
        "usage: python -m dinotrain.prepare SOURCE out=DIR [key=value ...]\n"
        "       python -m dinotrain.prepare data=NAME data.KEY=VALUE ... out=DIR [key=value ...]\n\n"
        "Converts any set of images to tar shards (WebDataset) with an index, a summary and a contact sheet.\n"
        "SOURCE is a folder of images, a tar file or a folder of tars, a Parquet file or a folder of such, a list\n"
        "(.txt, .csv), arrays (.npz, .npy), or a dataset saved by the datasets library; tars, Parquet files and lists\n"
        "also by URL. Anything else is named as for training: data=NAME with its keys.\n\n"
        f"keys:\n{keys}\n\n"
        "options:\n  --config    print the whole configuration, with what was typed, and end\n"
        "  --help      this text"
    )
