"""Production traces: from what a service exported to calls that can be asked again.

OTLP (`otlp`) or an export file (`importing`) gives spans and log events; the dialects (`dialects`, found by name) read
those that stand for one request to a model; `normal` makes of a whole batch calls in one normal form, each counted
once, and says of every call whether it can be asked again and, where it cannot, which setting would mend that.
Everything that a trace says is untrusted: sizes and depths are bounded, and no address in it is ever fetched.
"""
