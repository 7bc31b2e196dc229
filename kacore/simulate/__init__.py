"""What a keep-alive timeout would have done to the requests of an access log. `kacore simulate` is its command line.

    opening.py      bytes of files, packed ones and stdin, in blocks of whole lines
    times.py        what logs write for a time
    layout.py       lines that are described by a format string, as nginx's log_format and Apache's LogFormat
    json_lines.py   lines that are JSON objects
    recognise.py    which of these a log is
    reading.py      several logs, in order of time, as requests
    fronts.py       what stands in front of servers, and what other servers do
    study.py        the simulation: all timeouts in one pass, and limited room through the real ConnectionTable
    cost.py         idle connections weighed against handshakes
    advice.py       a recommendation, as a kacore.toml
    words.py, text.py, chart.py, plots.py, page.py    a result for people
    as_json.py      a result for programs

Knows no server and no socket. The work for each request is compiled: ClientPools and Replay of kacore._core.
"""
