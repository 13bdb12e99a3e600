"""Reports on runs: in words, and as one self-contained HTML page; see ``docs/report.md``."""

from hwnas.report.make import Report, make_report
from hwnas.report.serve import ReportServer, serve_report
from hwnas.report.words import describe_cost

__all__ = ["Report", "ReportServer", "describe_cost", "make_report", "serve_report"]
