"""The browser in which widgets are looked at: that of reports."""

from tests.reports.test_in_browser import browser

__all__ = ["browser"]
