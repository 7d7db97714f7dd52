"""Errors whose message is written for the person at the keyboard: one line that says what, where and what helps."""


class UserError(Exception):
    """A mistake the user can put right: the message says what would be right."""


class FaultError(UserError):
    """A machine's fault, which may have passed when the same command is given again."""
