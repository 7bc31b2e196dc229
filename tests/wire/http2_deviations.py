"""Where the servers that the tests of HTTP/2 were calibrated on are not as the RFC has it, or have not what is asked for.

By server: a part of the test's name, and why. Seen with nghttpd of nghttp2 1.52.0, nginx 1.22.1 and hypercorn 0.18. A test
that fails with one of them and has no line here is wrong itself, or has found something.
"""

CONNECTION = "an error of a stream costs the whole connection"
OTHER_CODE = "another error code"
IGNORES = "is not noticed"
NO_PRIORITIES = "RFC 9218 is not known"
READS = "is read"
NO_ECHO = "nobody is there to give content back"
WEAK = "has no such limit"
FIELDS_OF_HTTP_1 = ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
NOT_ON_IDLE = ("DATA", "RST_STREAM", "WINDOW_UPDATE", "DATA over the limit")
NO_RULES_OF_PRIORITIES = [
    ("RFC 9218 2.1", NO_PRIORITIES),
    ("PRIORITY_UPDATE on a stream", NO_PRIORITIES),
    ("PRIORITY_UPDATE of stream 0", NO_PRIORITIES),
    ("PRIORITY_UPDATE of 3 bytes", NO_PRIORITIES),
]

DEVIATIONS: dict[str, list[tuple[str, str]]] = {
    "nghttpd": [
        ("4.2 DATA over the limit", CONNECTION),
        ("4.2 CONTINUATION over the limit", OTHER_CODE),
        ("5.1 DATA after END_STREAM", CONNECTION),
        ("5.1 HEADERS after END_STREAM", CONNECTION),
        ("5.1.1 a lower number that was left out", IGNORES),
        ("no room for the length of padding", OTHER_CODE),
        ("6.3 PRIORITY of 4 bytes", CONNECTION),
        ("6.3 PRIORITY of 6 bytes", CONNECTION),
        ("6.9 WINDOW_UPDATE of a stream by 0", CONNECTION),
        ("6.9.2 a stream's window over 2^31-1 by SETTINGS", "ends only when it is used"),
        *NO_RULES_OF_PRIORITIES,
        ("a fragment in :path", READS),
        ("user information in :authority", READS),
        ("a port that is no number in :authority", READS),
        ("a host that differs", READS),
        ("CONNECT without a port", READS),
        ("test_8_1_nothing_follows_trailers", CONNECTION),
        ("test_a_response_without_content_needs_no_window", "the frame that ends it waits for a window"),
        ("test_the_connections_window_bounds_all_streams_together", "the frame that ends a response waits for a window"),
        ("end_the_connection[", WEAK),
        ("test_a_field_block_without_end_ends_the_connection", "it is closed without a GOAWAY"),
        ("test_blocks_that_unpack_to_much_have_an_end", WEAK),
    ],
    "nginx": [
        ("4.2 a frame of 16384 bytes is taken", NO_ECHO),
        ("4.2 SETTINGS over the limit", IGNORES),
        ("4.2 DATA over the limit", IGNORES),
        *[
            (f"5.1 {kind} on an idle stream", IGNORES)
            for kind in ("DATA", "RST_STREAM", "WINDOW_UPDATE", "DATA over the limit")
        ],
        ("5.1 WINDOW_UPDATE on a stream of the server's", IGNORES),
        ("5.1 HEADERS after END_STREAM", CONNECTION),
        ("6.1 padding is taken away", NO_ECHO),
        ("6.1 nothing but padding", NO_ECHO),
        ("6.1 an empty frame with END_STREAM", NO_ECHO),
        ("6.1 no room for the length of padding", CONNECTION),
        ("6.2 padding over priority", OTHER_CODE),
        ("6.3 PRIORITY of 4 bytes", CONNECTION),
        ("6.3 PRIORITY of 6 bytes", CONNECTION),
        ("RFC 8441 3", "RFC 8441 is not known"),
        *NO_RULES_OF_PRIORITIES,
        ("6.9 WINDOW_UPDATE of a stream by 0", CONNECTION),
        ("6.9.2 a stream's window over 2^31-1 by SETTINGS", IGNORES),
        ("6.10 an empty HEADERS before the block", "refuses it"),
        ("not_hpack_ends_the_connection[epoll-5.1 an integer that is not whole", OTHER_CODE),
        ("not_hpack_ends_the_connection[epoll-5.2", OTHER_CODE),
        ("4.2 a size update behind a field", READS),
        ("before SETTINGS", IGNORES),
        ("test_frames_may_come_byte_by_byte", NO_ECHO),
        ("test_5_1_data_on_a_closed_stream_costs_no_other_stream_its_window", NO_ECHO),
        ("[epoll-an empty name", CONNECTION),
        ("a byte over 0x7f in a name", READS),
        ("a space before a value", READS),
        ("a space behind a value", READS),
        ("a tab before a value", READS),
        ("a tab behind a value", READS),
        *[
            (f"[epoll-{name}]", READS)
            for name in ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")
        ],
        ("te that is not trailers", READS),
        ("te with more than trailers", READS),
        ("behind another", READS),
        ("no field at all", CONNECTION),
        ("an empty :path", CONNECTION),
        ("an empty :method", CONNECTION),
        ("an empty :scheme", CONNECTION),
        ("an empty :protocol", CONNECTION),
        ("a fragment in :path", READS),
        ("user information in :authority", READS),
        ("a port that is no number in :authority", READS),
        ("host that equals :authority", "is refused"),
        ("test_content_of_the_promised_length_is_read", NO_ECHO),
        ("test_8_1_1_content_of_another_length", "content is not looked at before it is passed on"),
        ("test_content_length_does_not_count_padding", NO_ECHO),
        ("test_8_1", "trailers of requests are refused"),
        ("test_large_content_comes_whole", NO_ECHO),
        ("test_the_windows_grow_with_what_is_taken", NO_ECHO),
        ("test_padding_is_counted_and_given_back", NO_ECHO),
        ("end_the_connection[", "ends it later, or with NO_ERROR"),
    ],
    "hypercorn": [
        ("4.2 DATA over the limit", CONNECTION),
        ("4.3 a field block that does not decode", OTHER_CODE),
        ("not_hpack_ends_the_connection", OTHER_CODE),
        ("on a stream that the server reset", CONNECTION),
        ("6.1 no room for the length of padding", CONNECTION),
        ("6.3 PRIORITY of 4 bytes", CONNECTION),
        ("6.3 PRIORITY of 6 bytes", CONNECTION),
        ("6.5 an acknowledgement with content", OTHER_CODE),
        *NO_RULES_OF_PRIORITIES,
        ("6.9 WINDOW_UPDATE of a stream by 0", CONNECTION),
        ("6.9 the reserved bit of the increment", "is refused"),
        ("before SETTINGS", IGNORES),
        ("test_5_1_data_on_a_closed_stream_costs_no_other_stream_its_window", CONNECTION),
        ("test_fields_of_a_stream_that_was_refused_stay_in_the_table", CONNECTION),
        ("test_a_malformed_request_is_an_error_of_its_stream", "costs the whole connection, or is read"),
        ("test_what_is_refused_has_the_status_of_http_1", WEAK),
        ("test_a_head_over_the_limit_is_refused", CONNECTION),
        ("test_content_that_promises_too_much_is_refused_at_its_head", WEAK),
        ("test_8_1_1", CONNECTION),
        ("test_8_1_malformed_trailers", CONNECTION),
        ("test_an_answer_before_the_end_of_content", "content is waited for"),
        ("test_100_is_sent", "100 is never sent"),
        ("no_content_whatever_the_application_sends[epoll-/trailers", "trailers follow"),
        ("test_a_failing_application_costs_its_stream_alone", "a response that is cut off stays open"),
        ("test_a_response_shorter_than_it_promised_is_cut_off", READS),
        ("test_8_2_3_cookies_are_joined", "at the end of all fields"),
        ("test_http_1_is_spoken_beside_it", "an offer of h2c is taken"),
        ("test_a_websocket_speaks_on_its_stream", "the stream stays open"),
        ("test_an_unmasked_frame_of_a_websocket", IGNORES),
        ("test_the_more_urgent_response_comes_first", NO_PRIORITIES),
        ("test_content_that_the_application_does_not_take", "windows are given back for what nobody took"),
        ("test_more_than_the_window_of", "windows are given back for what nobody took"),
        ("test_what_is_not_read_of_refused_content", CONNECTION),
        ("test_open_streams_survive_the_clients_goaway", "they are lost"),
        ("test_an_upload_survives_the_clients_goaway", "it is lost"),
        ("end_the_connection[", WEAK),
    ],
}
