import hashlib

from handler.protocol.receipt import Receipt


def test_a_receipt_names_the_bytes_that_arrived():
    receipt = Receipt.of(b"abc")
    assert receipt.to_dict() == {"sha256": hashlib.sha256(b"abc").hexdigest(), "bytes": 3}
    assert receipt.to_dict()["sha256"].startswith("ba7816bf")  # FIPS 180-2, appendix B.1
    assert receipt.headers() == {"X-Image-Sha256": receipt.sha256}
