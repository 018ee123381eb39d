"""Each stream takes a file descriptor: is there one for every stream, before anything is sent?"""
import resource

from lib.errors import UserError

SPARE = 64  # that a process has open besides its streams


def room_for(streams: int, name: str) -> str:
    """See to it that this process may have so many streams -> what was done for that, in a line; "" if nothing had to be.

    The limit of a user is raised to what the system allows. Raises UserError, which begins with `name`, where that is too low.
    """
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = streams + SPARE
    if _reaches(limit, need):
        return ""
    if not _reaches(hard, need):
        raise UserError(f"{name} {streams}: each stream needs a file descriptor and this process may have {hard} at most "
                        f"(ulimit -n): raise that to {need} or take at most {hard - SPARE} streams")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return f"{name} {streams}: the limit of open files was {limit:,} and has been raised to {hard:,}, the most that this system allows."


def _reaches(limit: int, need: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= need
