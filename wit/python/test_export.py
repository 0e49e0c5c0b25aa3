"""What `export` makes of what `run` gives: `python3 -m unittest discover -s wit/python`."""

import unittest

from sandclock import Permanent, export


def entry_giving(result):
    return export(lambda query: result)()


class Export(unittest.TestCase):
    def test_text_is_the_result(self):
        for text in ("", "done"):
            self.assertEqual(entry_giving(text).run("go"), text)

    def test_anything_else_fails_the_run_for_good_with_the_mend(self):
        for result, given in ((None, "None"), (7, "a value of type int"), (b"done", "a value of type bytes"), ({}, "a value of type dict")):
            with self.subTest(given=given):
                with self.assertRaises(Permanent) as caught:
                    entry_giving(result).run("go")
                self.assertEqual(str(caught.exception), f"run gave {given}, and must return text: return str(…)")


if __name__ == "__main__":
    unittest.main()
