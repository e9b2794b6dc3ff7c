// What people write into messages who mean harm.

export const MEDIA_TYPES = ["image", "audio", "video", "file"] as const;

export const HOSTILE = [
  "javascript:alert(1)",
  "JaVaScRiPt:alert(1)",
  " javascript:alert(1)",
  "java\nscript:alert(1)",
  "\u0001javascript:alert(1)",
  "data:text/html,<script>alert(1)</script>",
  "data:image/svg+xml,<svg onload=alert(1)>",
  "vbscript:msgbox(1)",
  "blob:https://notify.test/1",
  "file:///etc/passwd",
  "https://trusted.test@evil.test/",
  '"><img src=x onerror=alert(1)>',
  "<script>alert(1)</script>",
  "<a href=javascript:alert(1)>press me</a>",
  "{{constructor.constructor('alert(1)')()}}",
];
