"""Asks a question of a service, keeps the answer, and hands in the report.

The configuration names the service: `config = { endpoint = "http://…" }`. The answer is paid for once: a later attempt finds it saved.
"""

from sandclock import config, export, fetch, progress, step


def run(query):
    endpoint = config("endpoint", "http://127.0.0.1:8080")
    progress("asking", 0.2)
    answer = step("answer", lambda: fetch(f"{endpoint}/ask", json={"question": query}).check().json())
    progress("writing", 0.6)
    with open("survey.md", "w") as file:
        file.write(report(query, answer))
    progress("handing in", 0.8)
    fetch(f"{endpoint}/reports", json={"question": query}).check()
    return f"{len(answer['voices'])} voices: {answer['summary']}"


def report(question, answer):
    """The report's text."""
    voices = "".join(f"- {voice}\n" for voice in answer["voices"])
    return f"# {question}\n\n{answer['summary']}\n\n{voices}"


Entry = export(run)
