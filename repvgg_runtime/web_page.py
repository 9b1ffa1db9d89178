"""The web page: a picture, its labels painted over it, and the time of each form.

Annotations of handlers are evaluated, since Gradio reads them.
"""

import base64
import functools
import html
from collections.abc import Sequence
from typing import Any

from .errors import UserError
from .extras import require
from .forms import TimedForm, time_forms
from .segmenter import BaseSegmenter
from .web_picture import (
    Picture,
    Segmented,
    check_picture,
    data_url,
    encode_png,
    encode_preview,
    segment,
)
from .web_style import CSS, DROP, DROP_SCRIPT, SAVE_SCRIPT, swatches

SESSIONS = 100
"""Number of sessions whose pictures are kept; the one unused for longest is dropped."""

IDLE_SECONDS = 3600
"""Seconds after which the picture of a session is dropped."""


class Page:
    """The page of a segmenter, for several visitors at once.

    The network computes one picture at a time. What a visitor has chosen is kept in
    memory for that visitor alone, until the page is closed.

    Args:
        segmenter: Segmenter of images of three bands.
        name: Name of the model.
        source: File or folder that the model was opened from.
        examples: Pictures to choose from.
        max_bytes: Largest size of a file.
        max_pixels: Largest number of pixels of a picture.

    Raises:
        ExtraError: If Gradio is not installed.
    """

    def __init__(
        self,
        segmenter: BaseSegmenter,
        name: str,
        source: str,
        examples: Sequence[Picture],
        *,
        max_bytes: int,
        max_pixels: int,
    ) -> None:
        self.gradio = require('gradio', 'web')
        self.segmenter, self.name, self.source = segmenter, name, source
        self.examples = list(examples)
        self.max_bytes, self.max_pixels = max_bytes, max_pixels

    @functools.cached_property
    def _forms(self) -> Any:
        return self.segmenter.forms()

    def build(self) -> Any:
        """Return the page as Gradio's ``Blocks``."""
        import gradio as gr

        def take(event: gr.EventData) -> Any:
            return self._take(event.name, event.size, event.data)

        def take_example(event: gr.SelectData) -> Any:
            picture = self.examples[event.index]
            return picture, _note(_busy(picture))

        def forget(request: gr.Request) -> None:
            # delete_state would keep what was shown and downloaded.
            page.state_holder.session_data.pop(request.session_hash, None)

        network: dict[str, Any] = dict(concurrency_limit=1, concurrency_id='network')
        with gr.Blocks(title=self.name, analytics_enabled=False) as page:
            picture = gr.State(time_to_live=IDLE_SECONDS)
            found = gr.State(time_to_live=IDLE_SECONDS)
            gr.HTML(self._heading(), elem_id='heading')
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    drop = gr.HTML(
                        html_template=DROP,
                        js_on_load=DROP_SCRIPT,
                        limits=self._limits(),
                        max_bytes=self.max_bytes,
                        elem_id='drop',
                    )
                    if self.examples:
                        examples = gr.Gallery(
                            [_thumbnail(each) for each in self.examples],
                            label='Examples',
                            columns=2,
                            height='auto',
                            allow_preview=False,
                            interactive=False,
                            buttons=[],
                            elem_id='examples',
                        )
                with gr.Column(scale=5, min_width=300):
                    note = gr.HTML(_note('No picture is chosen yet.'), elem_id='note')
                    with gr.Column(visible=False) as results:
                        view = gr.HTML(elem_id='view')
                        opacity = gr.Slider(0, 100, 50, step=1, label='Opacity (%)')
                        legend = gr.CheckboxGroup(
                            label='Classes and their share of the pixels',
                            show_select_all=True,
                            elem_id='legend',
                        )
                        with gr.Row():
                            save_labels = gr.Button('Download label map', size='md')
                            save_overlay = gr.Button('Download overlay', size='md')
                            timing = gr.Button('Compare the forms', size='md')
                        table = gr.HTML(elem_id='forms')
            download = gr.JSON(visible=False)

            painted = [found, legend, opacity]
            segmented = [found, note, results, view, legend, table]
            chosen = [drop.upload(take, None, [picture, note], show_progress='hidden')]
            if self.examples:
                chosen.append(
                    examples.select(
                        take_example, None, [picture, note], show_progress='hidden'
                    )
                )
            for event in chosen:
                event.then(
                    self._segment,
                    [picture, opacity],
                    segmented,
                    show_progress='hidden',
                    **network,
                )
            # Gradio would refuse classes of a session that it has dropped.
            unlimited: dict[str, Any] = dict(
                show_progress='hidden', concurrency_limit=None, preprocess=False
            )
            for change in (legend.input, opacity.input):
                change(
                    self._redraw, painted, view, trigger_mode='always_last', **unlimited
                )
            for button, save in (
                (save_labels, self._save_labels),
                (save_overlay, self._save_overlay),
            ):
                saved = button.click(save, painted, download, **unlimited)
                saved.then(None, download, None, js=SAVE_SCRIPT).then(
                    lambda: None, None, download, **unlimited
                )
            timing.click(
                lambda: '<p class="hint">Timing …</p>',
                None,
                table,
                show_progress='hidden',
            ).then(self._time, found, table, show_progress='hidden', **network)
            page.unload(forget)
        for block in page.fns.values():
            block.api_visibility = 'private'
        return page

    def mount(self, app: Any) -> None:
        """Mount the page at the root of a FastAPI app."""
        gr = self.gradio
        # System fonts: the page requests nothing of other hosts.
        theme = gr.themes.Default(
            font=('system-ui', 'sans-serif'), font_mono=('ui-monospace', 'monospace')
        )
        page = self.build()
        page.state_session_capacity = SESSIONS
        gr.mount_gradio_app(
            app,
            page,
            path='/',
            theme=theme,
            css=CSS + swatches(self.segmenter.palette),
            footer_links=[],
            show_error=False,
        )

    def _heading(self) -> str:
        count = len(self.segmenter.classes)
        return (
            f'<h1>{html.escape(self.name)}</h1><p>Semantic segmentation into {count} '
            f'classes by {html.escape(self.source)}. Your picture is kept in memory '
            'only, until you close this page.</p>'
        )

    def _limits(self) -> str:
        return f'{self.max_bytes / 1e6:g} MB and {self.max_pixels / 1e6:g} megapixels'

    def _take(self, name: str, size: int, data: str | None) -> tuple[Any, str]:
        """Return a picture that was sent and a note, or None and why it is refused."""
        if size > self.max_bytes or data is None:
            return None, _note(
                f'{name} has {size / 1e6:.1f} MB, but at most '
                f'{self.max_bytes / 1e6:g} MB are allowed. Choose a smaller file.',
                error=True,
            )
        picture = Picture(name, base64.b64decode(data))
        try:
            check_picture(picture, self.max_pixels)
        except UserError as error:
            return None, _note(f'{error}.', error=True)
        return picture, _note(_busy(picture))

    def _segment(self, picture: Picture | None, opacity: float) -> Any:
        gr = self.gradio
        if picture is None:
            return gr.skip()
        try:
            found = segment(self.segmenter, picture)
        except UserError as error:
            skipped = [gr.skip()] * 4
            return gr.skip(), _note(f'{error}.', error=True), *skipped
        classes = [str(index) for index in found.shares]
        choices = [
            (f'{self.segmenter.classes[index]} {_percent(share)}', str(index))
            for index, share in found.shares.items()
        ]
        height, width = found.size
        facts = (
            f'{picture.name}: {width} x {height} pixels, segmented in '
            f'{_duration(found.seconds)}'
        )
        return (
            found,
            _note(facts),
            gr.Column(visible=True),
            self._redraw(found, classes, opacity),
            gr.CheckboxGroup(choices=choices, value=classes),
            '',
        )

    def _held(self, found: Segmented | None) -> Segmented:
        if found is None:
            raise self.gradio.Error(
                'This picture is no longer kept: choose it again.', print_exception=False
            )
        return found

    def _painting(self, classes: Sequence[str], opacity: float | None) -> Any:
        # The opacity is None while its field is empty, which the slider shows as 0.
        return (
            self.segmenter.palette,
            [int(each) for each in classes],
            (opacity or 0) / 100,
        )

    def _redraw(
        self, found: Segmented | None, classes: Sequence[str], opacity: float | None
    ) -> str:
        image = self._held(found).preview(*self._painting(classes, opacity))
        url = data_url(encode_preview(image), 'jpeg')
        return f'<img class="picture" alt="Picture with its labels" src="{url}">'

    def _save_labels(
        self, found: Segmented | None, classes: Sequence[str], opacity: float | None
    ) -> dict[str, str]:
        found = self._held(found)
        return _file(found, 'labels', found.label_png)

    def _save_overlay(
        self, found: Segmented | None, classes: Sequence[str], opacity: float | None
    ) -> dict[str, str]:
        found = self._held(found)
        image = found.overlay(*self._painting(classes, opacity))
        return _file(found, 'overlay', encode_png(image))

    def _time(self, found: Segmented | None) -> str:
        pixels = self._held(found).picture.pixels
        return _table(time_forms(self._forms, pixels))


def _busy(picture: Picture) -> str:
    return f'Segmenting {picture.name} …'


def _note(text: str, error: bool = False) -> str:
    role = 'alert' if error else 'status'
    return f'<div class="note" role="{role}">{html.escape(text)}</div>'


def _percent(share: float) -> str:
    return f'{share:.1%}' if share >= 0.001 else '< 0.1%'


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f'{seconds:.1f}\N{NO-BREAK SPACE}s'
    digits = 0 if seconds >= 0.01 else 1
    return f'{1e3 * seconds:.{digits}f}\N{NO-BREAK SPACE}ms'


def _file(found: Segmented, kind: str, content: bytes) -> dict[str, str]:
    stem = found.picture.name.rpartition('.')[0] or found.picture.name
    return {'name': f'{stem}_{kind}.png', 'url': data_url(content, 'png')}


def _table(forms: Sequence[TimedForm]) -> str:
    first = forms[0]
    if len(forms) == 1:
        return (
            f'<p class="hint single">{html.escape(first.name)} has a single form, which '
            f'takes {_duration(first.seconds)} for this picture.</p>'
        )
    rows = ''.join(
        f'<tr><td>{html.escape(form.name)}</td><td>{_duration(form.seconds)}</td>'
        f'<td>{first.seconds / form.seconds:.2f}x</td><td>{form.agreement:.3%}</td></tr>'
        for form in forms
    )
    return (
        '<table class="forms"><thead><tr><th>form</th><th>time</th><th>speed</th>'
        f'<th>same labels</th></tr></thead><tbody>{rows}</tbody></table>'
        '<p class="hint">Median time of three runs on this picture. Speed and labels are '
        f'compared with the {html.escape(first.name)}.</p>'
    )


def _thumbnail(picture: Picture) -> Any:
    from PIL import Image

    image = Image.fromarray(picture.pixels[:, :, ::-1])
    image.thumbnail((320, 320))
    return image
