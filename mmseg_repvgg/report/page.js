'use strict';

// Tables that are sorted by a click on the head of a column.
function number(cell) {
  return parseFloat(cell.textContent.replaceAll(',', ''));
}

function sort(table, column, direction) {
  const heads = table.tHead.rows[0].cells;
  for (const head of heads) head.removeAttribute('aria-sort');
  heads[column].setAttribute('aria-sort', direction);
  const sign = direction === 'ascending' ? 1 : -1;
  const byName = column === 0;
  const rows = [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    return [byName ? cell.textContent.trim() : number(cell), row];
  });
  rows.sort(([a], [b]) => {
    if (byName) return sign * a.localeCompare(b, 'en', { numeric: true });
    // Undefined values come last in both directions.
    if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
    return sign * (a - b);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll('table.sortable')) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = head.querySelector('button');
    button.addEventListener('click', () => {
      const now = head.getAttribute('aria-sort');
      const other = now === 'ascending' ? 'descending' : 'ascending';
      sort(table, column, now ? other : button.dataset.first);
    });
  });
}

// Panes that are enlarged by a click; the arrow keys go to the next one.
const dialog = document.querySelector('dialog');
let panes = [];
let shown = 0;

function show(index) {
  shown = (index + panes.length) % panes.length;
  const image = panes[shown].querySelector('img');
  dialog.querySelector('img').src = image.src;
  dialog.querySelector('img').alt = image.alt;
  const title = panes[shown].closest('article').querySelector('h3').textContent;
  dialog.querySelector('figcaption').textContent = `${image.alt}: ${title}`;
}

for (const pane of document.querySelectorAll('.pane')) {
  pane.addEventListener('click', () => {
    panes = [...pane.closest('.panes').querySelectorAll('.pane')];
    show(panes.indexOf(pane));
    dialog.showModal();
  });
}

dialog.addEventListener('keydown', (event) => {
  if (event.key === 'ArrowRight') show(shown + 1);
  if (event.key === 'ArrowLeft') show(shown - 1);
});
