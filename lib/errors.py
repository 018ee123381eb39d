"""The one exception that a user is meant to read."""
from lib.hiding import hide


class UserError(Exception):
    """Something that the user can mend: one line that says what is wrong and what to do.

    The command line prints the line and exits with a status that is not 0; a notebook shows the line in
    place of a traceback.
    """

    def __str__(self):  # it may repeat what somebody typed, or what a server said
        return hide(super().__str__())

    def _render_traceback_(self):  # IPython's hook for exceptions that draw themselves
        return [f"{type(self).__name__}: {self}"]
