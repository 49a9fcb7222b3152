// The panel "Recolour a picture": which picture, by which version, how far the work is, how to stop it and go on.

import { mapsColours, Palette } from "/page/colours.js";
import { byId, say } from "/page/elements.js";
import { PictureError, read } from "/page/pictures.js";
import { recolour } from "/page/recolouring.js";
import { file, scorePath } from "/page/server.js";
import { Views } from "/page/views.js";

const count = (number) => number.toLocaleString("en");
const colours = (number) => (number === 1 ? "1 different colour" : `${count(number)} different colours`);
const photographs = () => [...document.querySelectorAll("input[name=photograph]")];

export class Panel {
  /**
   * @param tell told (what, error or null) as the rest of the page tells its problems
   * @param take called with the colour of a chosen pixel
   */
  constructor({ tell, take }) {
    this.tell = tell;
    this.views = new Views(take);
    this.version = null; // { model, version } that recolours; null: the panel is hidden
    this.picture = null; // { name, pixels, note }
    this.palette = null;
    this.work = new AbortController();
    this.numChoices = 0;
    this.isReading = false;
    this.isMissing = false; // the chosen photograph
    this.listen();
  }

  listen() {
    for (const radio of photographs()) radio.addEventListener("change", () => this.choosePhotograph());
    byId("own").addEventListener("change", ({ target }) => {
      if (target.files.length) this.chooseOwn(target.files[0]);
      target.value = ""; // the same file may be chosen again
    });
    byId("go").addEventListener("click", () => (this.phase === "running" ? this.stop() : this.goOn()));
    const panel = byId("recolour");
    panel.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      panel.classList.add("over");
    });
    panel.addEventListener("dragleave", (event) => panel.contains(event.relatedTarget) || panel.classList.remove("over"));
    panel.addEventListener("drop", (event) => {
      panel.classList.remove("over");
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.chooseOwn(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", ({ clipboardData }) => {
      if (this.version && clipboardData?.files.length) this.chooseOwn(clipboardData.files[0]);
    });
  }

  /** Show the panel for a version whose gradient maps colours, hide it for any other and for none (null). */
  show(details) {
    const shown = details && mapsColours(details) ? details : null;
    const isSame = shown && shown.model === this.version?.model && shown.version === this.version.version;
    this.version = shown;
    byId("recolour").hidden = !shown;
    if (!shown) {
      this.cancel();
      this.phase = "stopped";
      return;
    }
    byId("recolour-route").textContent = `POST ${scorePath(shown.model, shown.version, "gradient")}`;
    if (this.picture && !isSame) this.begin();
    else if (this.picture && this.phase === "failed") this.goOn();
    if (!this.isReading && (!this.picture || this.isMissing)) this.choosePhotograph();
  }

  // ---------------------------------------------------------------------------------------------------- the picture
  choosePhotograph() {
    const radio = photographs().find(({ checked }) => checked) ?? photographs()[0];
    radio.checked = true;
    this.choose(radio.value, async () => read(await file(`/page/photographs/${radio.value}`), radio.value));
  }

  chooseOwn(chosen) {
    this.choose(null, () => read(chosen, chosen.name));
  }

  /** Read a picture and begin with it; what cannot be read leaves everything as it was, and says why. */
  async choose(photograph, reading) {
    this.numChoices += 1;
    const choice = this.numChoices;
    this.isReading = true;
    try {
      const picture = await reading();
      if (choice !== this.numChoices) return; // another was chosen meanwhile
      this.picture = picture;
      this.photograph = photograph;
      this.isMissing = false;
      this.sayPicture(`${picture.name}: ${picture.note}`);
      this.tell("photograph", null);
      if (this.version) this.begin();
    } catch (error) {
      if (choice !== this.numChoices) return;
      if (error instanceof PictureError) this.sayPicture(`${error.message}${this.picture ? ` ${this.picture.name} stays.` : ""}`, true);
      else this.miss(error);
    } finally {
      if (choice === this.numChoices) {
        this.isReading = false;
        if (!this.isMissing) for (const radio of photographs()) radio.checked = radio.value === this.photograph;
      }
    }
  }

  /** A photograph did not come: it stays the chosen one, and is asked for again when the page looks again. */
  miss(error) {
    this.isMissing = true;
    if (!this.picture) this.setPhase("failed", "There is no picture yet.");
    this.tell("photograph", error);
  }

  sayPicture(text, isProblem = false) {
    say(byId("picture-said"), text);
    byId("picture-said").classList.toggle("refused", isProblem);
  }

  // ------------------------------------------------------------------------------------------------------- the work
  begin() {
    this.cancel();
    const { pixels } = this.picture;
    this.palette = new Palette(pixels.data);
    this.image = new ImageData(pixels.width, pixels.height);
    this.numPainted = 0;
    this.numRequests = 0;
    this.views.begin(this.picture);
    URL.revokeObjectURL(byId("save").href);
    byId("save").removeAttribute("href"); // which hides it, without moving anything
    this.run();
  }

  /** End the work without a word; its problems are no longer anybody's. */
  cancel() {
    this.work.abort();
    this.tell("recolouring", null);
  }

  stop() {
    this.cancel();
    this.setPhase("stopped", `Stopped. ${count(this.palette.numKnown)} of ${colours(this.palette.size)} were asked.`);
  }

  goOn() {
    if (this.palette) this.run();
    else this.choosePhotograph();
  }

  async run() {
    if (!this.palette.size) {
      this.setPhase("done", `${this.picture.name} has no visible pixel: all of it is fully transparent, so nothing was asked.`);
      return;
    }
    const { palette, work } = Object.assign(this, { work: new AbortController() });
    const asking = `Asking for ${colours(palette.size)} of ${count(palette.numPixels)} pixels…`;
    this.setPhase("running", asking);
    try {
      await recolour(palette, this.version, work.signal, {
        onAnswer: () => {
          this.numRequests += 1;
          this.say(asking);
          this.paint();
        },
        onWait: (seconds) => this.say(`The server is busy: asked again in ${count(seconds)} s.`),
      });
    } catch (error) {
      if (work.signal.aborted) return;
      this.setPhase("failed", `Interrupted. ${count(palette.numKnown)} of ${colours(palette.size)} were asked.`);
      this.tell("recolouring", error);
      return;
    }
    this.tell("recolouring", null);
    this.paint();
    this.setPhase("done", this.summary());
    this.offer(work.signal);
  }

  summary() {
    const { size, numPixels } = this.palette;
    const { model, version } = this.version;
    const requests = `${count(this.numRequests)} ${this.numRequests === 1 ? "request" : "requests"}`;
    return `${colours(size)} of ${count(numPixels)} ${numPixels === 1 ? "pixel" : "pixels"} asked of ${model} version ${version}, in ${requests}.`;
  }

  /** Show what is known by now. */
  paint() {
    const { palette, image } = this;
    const ready = palette.numReady;
    palette.paint(image.data, this.numPainted, ready);
    this.views.paint(image, this.numPainted, ready);
    this.numPainted = ready;
    this.showShare();
  }

  showShare() {
    const { numKnown, size } = this.palette ?? { numKnown: 0, size: 1 };
    const share = size ? numKnown / size : 0;
    byId("share").value = share;
    byId("percent").textContent = size ? `${Math.floor(100 * share)} %` : "–";
  }

  setPhase(phase, words) {
    this.phase = phase;
    byId("recolour").dataset.phase = phase;
    byId("go").textContent = phase === "stopped" || phase === "failed" ? "Go on" : "Stop";
    byId("go").disabled = phase === "done";
    this.say(words);
    this.showShare();
  }

  say(words) {
    say(byId("colours-said"), words);
  }

  /** Offer the recoloured picture as a file, unless another began meanwhile. */
  offer(signal) {
    byId("recoloured").toBlob((blob) => {
      if (signal.aborted || !blob) return;
      byId("save").href = URL.createObjectURL(blob);
      byId("save").download = `${this.picture.name.replace(/\.[^.]*$/, "")}-recoloured.png`;
    });
  }
}
