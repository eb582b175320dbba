"""Every way in which a visitor gives the page a picture, and what is none, in Chromium against a running server."""

import numpy as np
import pytest
from PIL import Image

from handler.picture.decode import decode
from tests.support.browsing import Tab, needs_chromium
from tests.support.serving import ONE, TWO, encoded

pytestmark = [pytest.mark.server, needs_chromium]

PLAIN = "/predictions/shapes#maps=&weight=1"  # one figure, of the picture alone


@pytest.fixture(scope="module")
def shared(browser, server):
    """A page for many pictures, one after the other."""
    context = browser.new_context(permissions=["camera", "clipboard-read", "clipboard-write"])
    context.set_default_timeout(20_000)
    tab = Tab.of(context.new_page())
    tab.page.goto(server.address + PLAIN)
    yield tab
    assert [text for text in tab.complaints if "Failed to load resource" not in text] == []  # of refused pictures
    assert tab.elsewhere == []
    context.close()


def choose(tab, file):
    tab.page.locator("#choose").set_input_files(file)


def explained(tab, label="", name=""):
    tab.page.locator("#intake .note", has_text=name).wait_for()
    tab.page.locator("#status", has_text="figure about").wait_for()
    assert tab.page.locator("#status").inner_text().startswith(label)
    assert tab.page.locator("#problem").inner_text() == ""


def told(tab, sentence):
    """The page says so, and still answers."""
    tab.page.locator("#problem", has_text=sentence).wait_for()
    tab.page.get_by_role("button", name="two shapes").click()
    explained(tab, "heart")


def drop(tab, *files, text=""):
    """Drops files of this machine, or a text's address, as the browser is told of by the machine's window."""
    box = tab.page.locator("#zone").bounding_box()
    items = [{"mimeType": "text/uri-list", "data": text}] if text else []
    data = {"items": items, "files": [str(file) for file in files], "dragOperationsMask": 1}
    session = tab.page.context.new_cdp_session(tab.page)
    for kind in ("dragEnter", "dragOver", "drop"):
        at = {"x": box["x"] + 20, "y": box["y"] + 20}
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **at})
    session.detach()


def copy(tab, kind, content):
    """Puts a picture or a text into the clipboard, and pastes it."""
    blob = "new Blob([new Uint8Array(bytes)], {type})"
    write = f"([type, bytes]) => navigator.clipboard.write([new ClipboardItem({{[type]: {blob}}})])"
    tab.page.bring_to_front()
    tab.page.evaluate(write, [kind, list(content)])
    tab.page.keyboard.press("Control+V")


def test_a_file_is_dropped(shared):
    drop(shared, ONE)
    explained(shared, "star", "one.jpg")
    assert shared.page.locator("#intake .note").inner_text() == "one.jpg, 480 × 480 pixels."


def test_a_picture_is_pasted(shared):
    copy(shared, "image/png", encoded(Image.open(TWO).resize((120, 120)), "PNG"))
    explained(shared, name="image.png, 120 × 120 pixels. ")


def test_what_is_dropped_and_is_no_picture_is_told(shared, tmp_path):
    (tmp_path / "text.jpg").write_text("This is a text.")
    (tmp_path / "empty.jpg").touch()
    before = shared.page.url
    drop(shared, tmp_path / "text.jpg")
    told(shared, "Not a picture that can be read: the first bytes are 54 68")
    drop(shared, tmp_path / "empty.jpg")
    told(shared, "The picture is empty")
    drop(shared, tmp_path)
    told(shared, "This is a folder")
    drop(shared, text="http://127.0.0.1:9/picture.jpg")
    told(shared, "This is no picture's file")
    assert shared.page.url.partition("#")[0] == before.partition("#")[0]


def test_a_text_that_is_pasted_is_told_but_not_where_one_types(shared):
    copy(shared, "text/plain", b"heart")
    told(shared, "The clipboard holds no picture")
    shared.page.locator("#other").focus()
    copy(shared, "text/plain", b"heart")
    assert shared.page.locator("#other").input_value() == "heart"
    assert shared.page.locator("#problem").inner_text() == ""
    shared.page.locator("#other").fill("")


def test_a_file_that_has_gone_is_told(shared, tmp_path):
    """The page reads it when it asks."""
    file = tmp_path / "gone.npy"
    np.save(file, np.zeros((9, 9, 3), np.uint8))
    shared.page.evaluate(
        "() => { const { prototype } = FileReader; const read = prototype.readAsDataURL;"
        "window.reads = new Promise((begins) => { prototype.readAsDataURL = function (file) {"
        "prototype.readAsDataURL = read; begins(); window.goOn = () => read.call(this, file) } }) }"
    )
    choose(shared, file)
    shared.page.evaluate("window.reads")
    file.unlink()
    shared.page.evaluate("window.goOn()")
    told(shared, "The file cannot be read; it may have been moved")


def test_a_photograph_is_taken(shared):
    shared.page.evaluate(
        "() => { const media = navigator.mediaDevices, get = media.getUserMedia.bind(media); window.streams = [];"
        "media.getUserMedia = async (how) => { const got = await get(how); window.streams.push(got); return got } }"
    )
    opener = shared.page.get_by_role("button", name="Photograph")
    for leaves in (False, True, False):  # opened twice, it is one camera
        opener.click()
        shared.page.locator("#camera button:enabled", has_text="Take the picture").wait_for()
        if leaves:
            shared.page.get_by_role("button", name="Close the camera").click()
            assert opener.evaluate("(button) => button === document.activeElement")
    shared.page.get_by_role("button", name="Take the picture").click()
    explained(shared, name="photograph.jpg, ")
    assert shared.page.locator("#camera").is_hidden()
    live = "window.streams.flatMap((one) => one.getTracks()).filter((one) => one.readyState === 'live').length"
    assert shared.page.evaluate(f"[window.streams.length, {live}]") == [3, 0]


def test_a_camera_that_is_refused_or_missing_is_told(visit, server):
    tab = visit(server.address + PLAIN)
    tab.page.get_by_role("button", name="Photograph").click()
    told(tab, "The camera was refused")
    tab.page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")  # as over HTTP
    tab.page.get_by_role("button", name="Photograph").click()
    told(tab, "Browsers give the camera to pages of HTTPS and of this machine alone")
    assert tab.complaints == []


def test_a_phone_takes_photographs_by_its_own_camera(visit, server):
    tab = visit(server.address + PLAIN, has_touch=True, is_mobile=True)
    with tab.page.expect_file_chooser() as opened:
        tab.page.get_by_role("button", name="Photograph").click()
    opened.value.set_files(ONE)
    explained(tab, "star")


def quarters(**how):
    """A picture whose quarters have different colours, as a file."""
    image = Image.new("RGB", (240, 160))
    for place, colour in enumerate([(200, 30, 30), (30, 170, 40), (40, 60, 200), (220, 200, 40)]):
        image.paste(colour, (120 * (place % 2), 80 * (place // 2), 120 * (place % 2) + 120, 80 * (place // 2) + 80))
    exif = image.getexif()
    exif[0x0112] = how.pop("orientation")
    return encoded(image, exif=exif, **how)


@pytest.mark.parametrize(
    ("form", "orientation"),
    [("JPEG", turn) for turn in range(1, 9)]
    + [("PNG", 6), ("TIFF", 6), ("AVIF", 6), ("AVIF", 4)]
    + [("WEBP", turn) for turn in range(1, 9)],
)
def test_a_picture_is_shown_upright_as_the_server_sees_it(shared, form, orientation):
    data = quarters(form=form, orientation=orientation)
    choose(shared, {"name": f"turned.{form}", "mimeType": f"image/{form.lower()}", "buffer": data})
    explained(shared)
    seen = decode(data)
    size = "const {width, height} = document.querySelector('#figures canvas'); return [height, width]"
    assert shared.page.evaluate(f"(() => {{ {size} }})()") == [*seen.shape[:2]]
    pixel = "([x, y]) => [...document.querySelector('#figures canvas').getContext('2d').getImageData(x, y, 1, 1).data]"
    if form == "TIFF":  # which Chromium cannot show
        return
    for y in (0.4, 0.6):
        for x in (0.4, 0.6):
            row, column = int(y * seen.shape[0]), int(x * seen.shape[1])
            shown = shared.page.evaluate(pixel, [column, row])[:3]
            assert np.abs(np.array(shown) - seen[row, column]).max() <= 4, (x, y)


LARGE = {  # what the note says of the copy, or the problem
    "pixels": lambda: encoded(Image.new("L", (12_000, 9_000), 90), "JPEG"),
    "bytes": lambda: ONE.read_bytes() + bytes(20 << 20),
    "no picture": lambda: bytes(20 << 20),
    "pixels that the browser cannot read": lambda: encoded(
        Image.new("1", (9_000, 6_000)), "TIFF", compression="group4"
    ),
}
SAID = {
    "pixels": "12000 × 9000 pixels: a smaller copy is explained, 2048 × 1536 pixels as JPEG",
    "bytes": "The file has 20.1 MiB, 480 × 480 pixels: a smaller copy is explained, 480 × 480 pixels as JPEG",
    "no picture": "valid are 7.5 MiB, and the browser cannot make this file smaller",
    "pixels that the browser cannot read": "The picture has 9000x6000 = 54000000 pixels, valid are at most 50000000",
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_picture_is_made_smaller_or_refused_in_a_sentence(shared, tmp_path, name):
    (tmp_path / "large.jpg").write_bytes(LARGE[name]())
    choose(shared, tmp_path / "large.jpg")
    if "copy" in SAID[name]:
        explained(shared, name="large-smaller.jpg, ")
        assert SAID[name] in shared.page.locator("#intake .note").inner_text()
    else:
        told(shared, SAID[name])
