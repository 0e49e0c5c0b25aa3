"""Tests without a daemon: `python3 -m unittest`."""

import os
import tempfile
import unittest

import agent
from sandclock import Retryable, local

ASK = "http://127.0.0.1:8080/ask"
REPORTS = "http://127.0.0.1:8080/reports"


class Survey(unittest.TestCase):
    def setUp(self):
        local.reset()
        local.answers[ASK] = (200, {"summary": "Tea.", "voices": ["tea", "tea, hot"]})
        local.answers[REPORTS] = (201, "")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)

    def test_it_asks_writes_and_hands_in(self):
        self.assertEqual(agent.run("Tea or coffee?"), "2 voices: Tea.")
        with open("survey.md") as file:
            self.assertEqual(file.read(), "# Tea or coffee?\n\nTea.\n\n- tea\n- tea, hot\n")
        self.assertEqual([request["url"] for request in local.requests], [ASK, REPORTS])
        self.assertEqual(local.reports, [("asking", 0.2), ("writing", 0.6), ("handing in", 0.8)])

    def test_a_second_attempt_does_not_ask_again(self):
        local.answers[REPORTS] = [(503, "later"), (201, "")]
        with self.assertRaises(Retryable):
            agent.run("Tea or coffee?")
        self.assertEqual(agent.run("Tea or coffee?"), "2 voices: Tea.")
        self.assertEqual([request["url"] for request in local.requests], [ASK, REPORTS, REPORTS])


if __name__ == "__main__":
    unittest.main()
