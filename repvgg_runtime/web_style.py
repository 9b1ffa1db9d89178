"""Style of the web page, its place to drop files, and its scripts."""

from __future__ import annotations

from collections.abc import Sequence

CSS = """
.gradio-container > .main { width: 100%; max-width: 1240px; margin: 0 auto; }
.html-container { padding: 0 !important; }
#heading h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
#heading p, .drop small, .hint { color: var(--body-text-color); opacity: .7; }
#heading p, .hint { margin: .25rem 0 0; }
.drop { display: flex; flex-direction: column; align-items: center; gap: .25rem;
  padding: 1.5rem 1rem; text-align: center; cursor: pointer;
  border: 2px dashed var(--neutral-400); border-radius: var(--radius-lg);
  background: var(--block-background-fill); color: var(--body-text-color); }
.drop:hover, .drop:focus-within, .drop.over { border-color: var(--color-accent); }
.drop input { position: absolute; width: 1px; height: 1px; opacity: 0; }
.drop b { color: var(--link-text-color); }
.note { padding: .75rem 1rem; border-radius: var(--radius-md);
  background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  color: var(--body-text-color); overflow-wrap: anywhere; }
.note[role=alert] { color: var(--error-text-color);
  background: var(--error-background-fill); border-color: var(--error-border-color); }
.picture { display: block; width: 100%; max-height: 75vh; object-fit: contain;
  border-radius: var(--radius-md); }
#examples .grid-wrap { min-height: 0; max-height: none; padding-top: 2rem; }
#examples .grid-container { grid-auto-rows: auto; grid-template-rows: none; }
#examples .thumbnail-item { height: auto; aspect-ratio: 3 / 2; }
#legend .wrap { max-height: 22rem; overflow-y: auto; }
#legend input + span::before { content: ''; display: inline-block; width: 1em;
  height: 1em; margin-right: .5em; vertical-align: -.125em; border-radius: 3px;
  border: 1px solid var(--neutral-400); }
.forms { width: 100%; border-collapse: collapse; margin: 0; }
.forms, .forms tr { border: 0 !important; }
.forms th, .forms td { padding: .4rem .6rem; text-align: right; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important;
  color: var(--body-text-color); white-space: nowrap; }
.forms th:first-child, .forms td:first-child { text-align: left; white-space: normal;
  padding-left: 0; }
@media (max-width: 640px) {
  .gradio-container > .main { padding: 1rem !important; }
  #examples .grid-container {
    grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
  #legend label { padding: .3rem .5rem; }
  .forms th, .forms td { padding: .4rem .3rem; font-size: .85rem; }
}
"""

DROP = """
<label class="drop">
  <input type="file" accept="image/*" aria-label="Choose a picture">
  <span>Drop a picture here, or <b>choose a file</b></span>
  <small>at most ${limits}</small>
</label>
"""

# The file is sent with the event, so that it is never written to the server's disk.
DROP_SCRIPT = """
const zone = () => element.querySelector('.drop');
const send = (file) => {
  if (!file) return;
  const event = { name: file.name, size: file.size, data: null };
  if (file.size > props.max_bytes) return trigger('upload', event);
  const reader = new FileReader();
  reader.onload = () => {
    event.data = reader.result.split(',')[1] || '';
    trigger('upload', event);
  };
  reader.readAsDataURL(file);
};
element.addEventListener('change', (event) => {
  send(event.target.files[0]);
  event.target.value = '';
});
for (const name of ['dragenter', 'dragover', 'dragleave', 'drop'])
  element.addEventListener(name, (event) => {
    event.preventDefault();
    zone().classList.toggle('over', name === 'dragenter' || name === 'dragover');
  });
element.addEventListener('drop', (event) => send(event.dataTransfer.files[0]));
"""

SAVE_SCRIPT = """
async (file) => {
  const content = await (await fetch(file.url)).blob();
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
"""


def swatches(palette: Sequence[Sequence[int]]) -> str:
    """Return the style of the legend's colours.

    Args:
        palette: An RGB colour for each class.
    """
    return '\n'.join(
        f'#legend input[name="{index}"] + span::before '
        f'{{ background: rgb({red}, {green}, {blue}); }}'
        for index, (red, green, blue) in enumerate(palette)
    )
