"""The report on a comparison: stored runs → tables → figures, files and one page.

:func:`tabulate` is a pure function from records to plain values; everything else only reads these.
"""

from hiddenkey.lab.report.tables import Tables
from hiddenkey.lab.report.tabulation import tabulate
from hiddenkey.lab.report.writing import Written, write_report

__all__ = ["Tables", "Written", "tabulate", "write_report"]
