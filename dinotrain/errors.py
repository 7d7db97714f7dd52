"""The one exception whose message is written for the person at the keyboard."""


class UserError(Exception):
    """A mistake the user can put right: the message is one line that says what, where and what would be right."""
