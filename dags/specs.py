"""No DAG: a declaration that can't be read is an import error here, and takes down only its own DAGs."""

from include.spec import SpecError, read_all

unreadable = read_all()[1]
if unreadable:
    raise SpecError("; ".join(map(str, unreadable)))
