// The search of pages that are opened as files, where browsers start no worker: its script runs in the page instead.
// Without a script of this name, the site generator loads one from the network.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      const script = document.createElement("script");
      this.loaded = new Promise(resolve => { script.onload = resolve; });
      window.postMessage = data => setTimeout(() => this.onmessage({ data: structuredClone(data) }));
      script.src = url;
      document.head.append(script);
    }
    postMessage(data) { this.loaded.then(() => setTimeout(() => window.onmessage({ data: structuredClone(data) }))); }
    terminate() {}
  };
}
