"""The report on one explanation: what it says, and the forms it is written in."""

from .content import Report
from .html import write_report_html
from .pdf import write_report_pdf

__all__ = ["Report", "write_report_html", "write_report_pdf"]
