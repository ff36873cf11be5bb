// What was tried: its words, its rows, its CSV. An item is one photo with all that is known of it.

// Controls and marks that turn the reading direction cannot be shown, and would let a name pose as another.
const UNSHOWABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\u{d800}-\u{dfff}]/gu;
const show = text => text.replace(UNSHOWABLE, found => "\\u" + found.charCodeAt(0).toString(16).padStart(4, "0"));
const number = value => value.toLocaleString("en");
const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
const TOP = 3;
const THUMB_PX = 112;
const ROWS_AT_ONCE = 100;

function element(tag, className, text, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = show(text);
  made.append(...children);
  return made;
}

// Never 100 % or 0 % of what is not quite that.
function percent(share) {
  if (share < 1 && share >= 0.9995) return "> 99.9\u00a0%";
  if (share > 0 && share < 0.0005) return "< 0.1\u00a0%";
  return (100 * share).toFixed(share === 0 || share === 1 ? 0 : 1) + "\u00a0%";
}

// How many of a hundred, as people say it: a calibrated probability is a frequency.
function ofHundred(share) {
  const n = Math.round(100 * share);
  if (share < 1 && n === 100) return {n: 99, words: "more than 99"};
  if (share > 0 && n === 0) return {n: 1, words: "fewer than 1"};
  return {n, words: share === 1 ? "all" : `about ${n}`};
}

const isAnswered = item => item.state === "ok" || item.state === "unsure";
const isOpen = item => item.state === "waiting" || item.state === "sent";

function outcome(item) {
  if (item.state === "ok") return [element("bdi", "", item.ranked[0].label)];
  if (item.state === "unsure") return [element("span", "no", "not sure"), element("span", "soft perhaps", "", "perhaps ", element("bdi", "", item.ranked[0].label))];
  if (item.state === "failed") return [element("span", "no", item.code === "unreadable" ? "not readable" : "not answered"), element("span", "soft perhaps", item.reason)];
  return [element("span", "soft", item.reason || (item.state === "sent" ? "looking\u2026" : "waiting\u2026"))];
}

// In words alone, for the ears: what the row and the stage show.
function spoken(item) {
  if (item.state === "ok") return `${item.ranked[0].label}, ${percent(item.ranked[0].probability)}`;
  if (item.state === "unsure") return `not sure, perhaps ${item.ranked[0].label}, ${percent(item.ranked[0].probability)}`;
  return item.state === "failed" ? `no answer: ${item.reason}` : "waiting";
}

function makeRow(item, onChoose) {
  const button = element("button", "name", "", element("bdi", "", item.name));
  button.type = "button";
  button.title = show(item.name);
  const row = element("tr", "", "", element("td", "pic"), element("th", "left", "", button), element("td", "left what"), element("td", "share"), element("td", "left soft next"));
  row.cells[1].scope = "row";
  row.addEventListener("click", () => onChoose(item));
  return row;
}

function fillRow(item) {
  if (!item.row) return;
  const [picture, , what, share, next] = item.row.cells;
  item.row.className = item.state;
  if (item.thumb && !picture.firstChild) {
    const image = element("img");
    image.alt = "";
    image.src = item.thumb;
    picture.append(image);
  }
  what.replaceChildren(...outcome(item));
  const [best, second] = isAnswered(item) ? item.ranked : [];
  share.replaceChildren(...(best ? [element("span", "", percent(best.probability)), meter(best.probability)] : []));
  next.replaceChildren(...(second ? [element("bdi", "", second.label), ` ${percent(second.probability)}`] : []));
}

function meter(share) {
  const filled = element("i");
  filled.style.width = `${100 * share}%`;
  return element("span", "meter", "", filled);
}

// A square cut of the photo, small enough to keep thousands of.
async function thumbOf(image) {
  try { await image.decode(); } catch { return ""; }
  const canvas = element("canvas"), side = Math.min(image.naturalWidth, image.naturalHeight);
  canvas.width = canvas.height = THUMB_PX;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (image.naturalWidth - side) / 2, (image.naturalHeight - side) / 2, side, side, 0, 0, THUMB_PX, THUMB_PX);
  const blob = await new Promise(done => canvas.toBlob(done, "image/webp", 0.8));
  return blob ? URL.createObjectURL(blob) : "";
}

// Spreadsheets compute what begins with one of these signs; those of some countries also begin a new cell at a
// semicolon or a tab. An apostrophe in front makes it text (OWASP, CSV injection).
const FORMULA = /(^|[;|\t\r\n])(\s*)([=+\-@\uff1d\uff0b\uff0d\uff20])/gu;

function csvCell(text) {
  const guarded = text.replace(FORMULA, "$1$2'$3").replace(/^(?=[\t\r\n])/, "'");
  return `"${guarded.replaceAll('"', '""')}"`;
}

// The columns of `heeler predict --out`. The mark in front tells spreadsheets that it is UTF-8.
function csvOf(items) {
  const lines = [["path", "status", "reason", "label", "probability"]];
  for (let rank = 2; rank <= TOP; rank++) lines[0].push(`label_${rank}`, `probability_${rank}`);
  for (const item of items) {
    const ranked = isAnswered(item) ? item.ranked : [], status = item.state === "failed" ? item.code : item.state;
    const line = [item.name, status, item.state === "failed" ? item.reason : ""].map(csvCell);
    for (let rank = 0; rank < TOP; rank++) line.push(...(ranked[rank] ? [csvCell(ranked[rank].label), ranked[rank].probability.toFixed(6)] : ["", ""]));
    lines.push(line);
  }
  return "\ufeff" + lines.map(line => line.join(",") + "\r\n").join("");
}
