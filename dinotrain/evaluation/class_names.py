"""What the classes of an evaluation are called."""

from __future__ import annotations

from dinotrain.evaluation.setting import Setting


def class_names(setting: Setting) -> tuple[str, ...]:
    """Names of the training classes by number; the numbers themselves where there are no names.

    Raises:
        UserError: if the images of a split have no labels.
    """
    most = max(int(split.labels.max(initial=-1)) for split in (setting.train, setting.test)) + 1
    names = setting.train.source.classes or ()
    return (*names, *(str(number) for number in range(len(names), most)))
