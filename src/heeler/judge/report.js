"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const number = (value) => value.toLocaleString("en");
  const percent = (share) => (100 * share).toFixed(share === 0 || share === 1 ? 0 : 1) + "\u00a0%";

  // A picture that stands on the page already is not in the data a second time.
  const source = (row) => {
    if (data.thumbs[row]) return "data:image/webp;base64," + data.thumbs[row];
    const there = document.querySelector('img[data-photo="' + row + '"]');
    return there ? there.src : "";
  };

  const figureOf = (row) => {
    const [path, probability] = data.photos[row];
    const figure = element("figure");
    const address = source(row);
    if (address) {
      const image = element("img");
      image.src = address;
      image.alt = "";
      figure.append(image);
    } else {
      figure.append(element("div", "no picture", "nothing"));
    }
    const caption = element("figcaption", percent(probability));
    caption.append(element("span", path, "file"));
    figure.append(caption);
    return figure;
  };

  const dialog = byId("photos");
  const open = (button) => {
    const given = Number(button.dataset.given), said = Number(button.dataset.predicted);
    const [n, rows] = data.cells[given + "," + said];
    const names = given === said ? data.classes[given] : data.classes[given] + " → " + data.classes[said];
    byId("photos-title").textContent = names;
    const what = given === said ? "given and predicted so" : "given → predicted";
    const some = rows.length < n ? ", the first " + number(rows.length) + " of " : ", ";
    byId("photos-text").textContent = what + some + number(n) + (n === 1 ? " photo" : " photos") +
      ". The figure is the probability that the model stated.";
    byId("photos-grid").replaceChildren(...rows.map(figureOf));
    dialog.showModal();
    dialog.scrollTop = 0;
  };
  if (dialog) {
    byId("photos-close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

    // One stop for the Tab key; the arrows go on from there.
    const buttons = [...document.querySelectorAll(".matrix button")];
    buttons.forEach((button, i) => {
      button.tabIndex = i ? -1 : 0;
      button.title = button.getAttribute("aria-label");
      button.addEventListener("click", () => open(button));
      button.addEventListener("focus", () => buttons.forEach((each) => { each.tabIndex = each === button ? 0 : -1; }));
      button.addEventListener("keydown", (event) => {
        const row = Number(button.dataset.given), column = Number(button.dataset.predicted);
        const beyond = {
          ArrowRight: (r, c) => r === row && c > column, ArrowLeft: (r, c) => r === row && c < column,
          ArrowDown: (r, c) => c === column && r > row, ArrowUp: (r, c) => c === column && r < row,
        }[event.key];
        if (!beyond) return;
        event.preventDefault();
        const found = buttons.filter((each) => beyond(Number(each.dataset.given), Number(each.dataset.predicted)));
        const next = ["ArrowLeft", "ArrowUp"].includes(event.key) ? found.at(-1) : found[0];
        if (next) next.focus();
      });
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const value = (row, column) => {
      const text = row.cells[column].textContent;
      const found = column && text.replaceAll(",", "").match(/[\d.]+/);
      return column ? (found ? Number(found[0]) : -1) : text;
    };
    heads.forEach((head, column) => {
      if (head.tagName !== "TH") return;
      const button = element("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((one, other) => {
          const a = value(one, column), b = value(other, column);
          return (typeof a === "string" ? a.localeCompare(b) : a - b) * (up ? 1 : -1);
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  const slider = byId("sure-from");
  if (slider) {
    const tell = () => {
      const [threshold, answered, right] = data.sure[Number(slider.value)];
      const from = Math.round(100 * threshold) + "\u00a0%";
      byId("sure-value").textContent = from;
      slider.setAttribute("aria-valuetext", from);
      byId("sure-text").textContent = answered
        ? "It answers " + number(answered) + " of " + number(data.n) + " photos (" + percent(answered / data.n) +
          "); " + percent(right / answered) + " of these answers are right."
        : "It is never so sure.";
    };
    slider.addEventListener("input", tell);
    byId("sure").hidden = false;
    tell();
  }
  document.documentElement.dataset.ready = "yes";
})();
