"""All built-in functions of the language: the table, with every family in it, in the order in which the language reference lists them.

`gradflow explain NAME` and that reference are generated from it. What a node means numerically is the backends' business.
"""

# isort: off
from gradflow.builtins.table import BUILTINS as BUILTINS
from gradflow.builtins import elementwise as _elementwise  # noqa: F401
from gradflow.builtins import reductions as _reductions  # noqa: F401
from gradflow.builtins import derivatives as _derivatives  # noqa: F401
from gradflow.builtins import axes as _axes  # noqa: F401
from gradflow.builtins import buffers as _buffers  # noqa: F401
from gradflow.builtins import devices as _devices  # noqa: F401
from gradflow.builtins import draws as _draws  # noqa: F401
from gradflow.builtins import graphs as _graphs  # noqa: F401
from gradflow.builtins import lists as _lists  # noqa: F401
from gradflow.builtins import losses as _losses  # noqa: F401
from gradflow.builtins import matrices as _matrices  # noqa: F401
from gradflow.builtins import order as _order  # noqa: F401
from gradflow.builtins import records as _records  # noqa: F401
from gradflow.builtins import release as _release  # noqa: F401
from gradflow.builtins import shares as _shares  # noqa: F401
from gradflow.events import clocks as _clocks  # noqa: F401
from gradflow.solvers import words as _problems  # noqa: F401
